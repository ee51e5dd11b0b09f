"""A pytree as named arrays on the host, and back, without a cast on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from mbrl.core.errors import UserError
from mbrl.core.rows import is_split


class LeafSpec(NamedTuple):
    """What a leaf must look like: ``impl`` is the generator of a typed random key, None for plain arrays."""

    dtype: str
    shape: tuple[int, ...]
    impl: str | None = None

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class HostTree(NamedTuple):
    """A pytree's leaves by name. Random keys stand as their key data; ``arrays`` leaves out those without elements."""

    arrays: dict[str, np.ndarray]
    specs: dict[str, LeafSpec]


def read_spec(entry: Any) -> LeafSpec:
    """Return what JSON says of a leaf; raises ValueError where that is nothing a leaf could be."""
    dtype, shape, impl = entry
    sized = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not (isinstance(dtype, str) and sized and (impl is None or isinstance(impl, str))):
        raise ValueError(f"{entry!r} describes no array")
    return LeafSpec(dtype, tuple(shape), impl)


def stored(spec: LeafSpec) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape in which a leaf stands in ``HostTree.arrays``; ValueError for an unknown generator."""
    if spec.impl is None:
        return spec.dtype, spec.shape
    data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=spec.impl)))
    return str(data.dtype), (*spec.shape, *data.shape)


def to_host(tree: PyTree) -> HostTree:
    """Return the leaves of ``tree`` as NumPy arrays; on a CPU these may be views, so use them before donating."""
    named = named_leaves(tree)
    specs = {name: _spec(leaf) for name, leaf in named.items()}
    arrays = {name: jax.random.key_data(leaf) if _is_key(leaf) else leaf for name, leaf in named.items()}
    return HostTree({name: _whole(a) for name, a in arrays.items() if a.size}, specs)


def _whole(array: Any) -> np.ndarray:
    """Return an array's numbers. What NumPy itself is given of a split one, JAX would keep with it."""
    if not isinstance(array, jax.Array) or array.is_fully_replicated:
        return np.asarray(array)
    whole = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        whole[shard.index] = shard.data
    return whole


def from_host(template: PyTree, host: HostTree) -> PyTree:
    """Return the pytree of ``template``'s structure that ``host`` holds, in fresh device buffers that can be donated.

    Args:
        template: arrays or ``jax.ShapeDtypeStruct``; where they say another memory than the device's, that is taken.
        host: what ``to_host`` returned, perhaps read back from a disk.

    Raises:
        UserError: another structure, shape or dtype than the template's; nothing is cast.
    """
    check(template, host.specs)
    leaves = []
    for name, want in named_leaves(template).items():
        array = host.arrays[name] if name in host.arrays else np.zeros(want.shape, want.dtype)
        impl = host.specs[name].impl
        leaf = array if impl is None else _key(name, array, impl)
        _same(name, _spec(leaf), _spec(want))
        leaves.append(_placed(leaf, getattr(want, "sharding", None)))
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _placed(leaf: Any, place: jax.sharding.Sharding | None) -> jax.Array:
    """Return a leaf in a buffer of its own: by way of the device not even where it is to lie in another memory."""
    if place is None or place.memory_kind in {None, "device"}:
        return jnp.array(leaf)
    return jax.device_put(leaf, place, may_alias=False)


def _key(name: str, data: np.ndarray, impl: str) -> jax.Array:
    """Return a typed random key; raises UserError for a generator that is not known, or data that are not its own."""
    try:
        return jax.random.wrap_key_data(jnp.array(data), impl=impl)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} in the checkpoint is no random key of the generator {impl!r}") from error


def check(template: PyTree, found: Mapping[str, LeafSpec]) -> None:
    """Compare stored leaves with the template's.

    Raises:
        UserError: naming the first leaf that is missing, left over, or of another shape or dtype.
    """
    expected = {name: _spec(leaf) for name, leaf in named_leaves(template).items()}
    for name, want in expected.items():
        if name not in found:
            raise UserError(f"the checkpoint has no {name}, expected {want}: it was saved by another kind of run")
        _same(name, found[name], want)
    for name in found:
        if name not in expected:
            raise UserError(f"the checkpoint holds {name}, {found[name]}, which this run does not have")


def _same(name: str, found: LeafSpec, want: LeafSpec) -> None:
    """Raise where dtype or shape differ; the dtype of a key names its generator."""
    if (found.dtype, found.shape) != (want.dtype, want.shape):
        raise UserError(f"{name} in the checkpoint is {found}, expected {want}: it was saved by another config")


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Return the leaves by their dotted path, in their order; that rows may be split over devices is not told."""
    paths = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_split)[0]
    plain = lambda leaf: leaf.rows if is_split(leaf) else leaf
    named = {jax.tree_util.keystr(path, simple=True, separator="."): plain(leaf) for path, leaf in paths}
    if len(named) != len(paths):
        raise ValueError("two leaves of the state have the same dotted path; rename one")
    return named


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _spec(leaf: Any) -> LeafSpec:
    impl = str(jax.random.key_impl(leaf)) if _is_key(leaf) and isinstance(leaf, jax.Array) else None
    return LeafSpec(str(leaf.dtype), tuple(leaf.shape), impl)
