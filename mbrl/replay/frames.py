"""Frames in the host's memory: the large leaves of a ring, which would fill an accelerator's.

They stay arrays of the ring's state; only their memory is another (JAX's memory kind ``pinned_host``). Between the two
memories XLA moves dynamic slices, in place; a gather or a scatter would be work for the host's own cores. So all that
is done here are slices, and `vmap`, which would make gathers and scatters of them, is told how to go on with slices.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.sharding import NamedSharding
from jaxtyping import Array, Int

from mbrl.core.errors import UserError
from mbrl.core.types import Sequence, Spec, as_dict

# The kind of host memory that an accelerator reads and writes by itself.
KIND = "pinned_host"
_HOST, _DEVICE = jax.memory.Space.Host, jax.memory.Space.Device


def is_frame(leaf: Any, axes: int = 0) -> bool:
    """Return whether a spec, or an array with that many more leading axes, is of frames: uint8 of rank 3 or more."""
    return leaf.dtype == jnp.uint8 and len(leaf.shape) >= axes + 3


def check(observation: Spec, device: Any) -> None:
    """Check that there are frames and that they can lie in the host's memory.

    Args:
        observation: the spec of an environment's observation.
        device: the `jax.Device` on which the rest of the replay lies.

    Raises:
        UserError: nothing that is observed is a frame, or the device has no such memory at its side.
    """
    if not any(is_frame(spec) for spec in as_dict(observation).values()):
        raise UserError(
            "replay.frames is host, but nothing in the observation is a frame (uint8, rank 3 or more); leave it out"
        )
    if KIND not in {memory.kind for memory in device.addressable_memories()}:
        raise UserError(f"replay.frames is host, but for {device.platform} JAX has no {KIND} memory; leave it out")


def where(data: Sequence) -> Sequence:
    """Return which leaves of steps, with any leading axes, are frames: a tree of bools."""
    axes = len(data.timestep.reward.shape)
    nowhere = jax.tree.map(lambda _: False, data)
    framed = jax.tree.map(lambda leaf: is_frame(leaf, axes), data.timestep.observation)
    return nowhere._replace(timestep=nowhere.timestep._replace(observation=framed))


def zeros(leaf: Any, place: NamedSharding | None = None) -> Array:
    """Return zeros in the host's memory, written row by row: a device never has room for more than one.

    Args:
        leaf: their shape ``[*R, N, H, W, C]``, of any rank from 5 on, and their dtype; only the rows' axes may be more.
        place: how they are split over devices; None for one device.
    """
    if place is None:
        return _zeros(leaf.shape, leaf.dtype)
    here = place.shard_shape(leaf.shape)  # a device's own; left to the partitioner, a split first axis fails to compile
    own = lambda: _zeros(here, leaf.dtype)
    return jax.shard_map(own, mesh=place.mesh, in_specs=(), out_specs=place.spec, check_vma=False)()


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    write_row = lambda _, __: (None, jax.device_put(jnp.zeros(shape[-4:], dtype), _HOST))
    return jax.lax.scan(write_row, None, length=math.prod(shape[:-4]))[1].reshape(shape)


@custom_vmap
def write(ring: Array, rows: Array, cursor: Int[Array, ""]) -> Array:
    """Return a ring of frames ``[R, N, ...]`` in the host's memory with ``rows``, ``[N, ...]``, at ``cursor``."""
    return _put(ring, rows[None], (cursor,))


@write.def_vmap
def _write_each(size: int, split: list[bool], *args: Array) -> tuple[Array, bool]:
    """Write the rows of each of several rings, one after the other."""
    ring, rows, cursor = (_each(size, *arg) for arg in zip(split, args, strict=True))
    one = lambda i, ring: _put(ring, rows[i][None, None], (i, cursor[i]))
    return jax.lax.fori_loop(0, size, one, ring), True


def read(ring: Array, start: Int[Array, "B"], env: Int[Array, "B"], window: int) -> Array:
    """Return sequences of frames, ``[window, B, ...]``, on the device.

    Args:
        ring: ``[R, N, ...]`` in the host's memory.
        start: the rows of their first steps; the following ones go round the ring's end.
        env: of which environment each is.
        window: steps in a sequence, at most R.
    """

    @custom_vmap
    def take(ring: Array, start: Array, env: Array) -> Array:
        return _sequences(ring, (), start, env, window)

    @take.def_vmap
    def _take_each(size: int, split: list[bool], *args: Array) -> tuple[Array, bool]:
        ring, (start, env) = args[0], (_each(size, *arg) for arg in zip(split[1:], args[1:], strict=True))
        number = jnp.repeat(jnp.arange(size), start.shape[1])
        found = _sequences(ring, (number,) if split[0] else (), start.ravel(), env.ravel(), window)
        return jnp.moveaxis(found.reshape((window, *start.shape, *found.shape[2:])), 1, 0), True

    return take(ring, start, env)


def _sequences(ring: Array, lead: tuple[Array, ...], start: Array, env: Array, window: int) -> Array:
    """Return ``[window, B, ...]`` from a ring ``[R, N, ...]``, or from rings ``[S, R, N, ...]`` where ``lead`` says."""
    rows, frame = ring.shape[len(lead)], ring.shape[len(lead) + 2 :]
    sizes = (*[1] * len(lead), window, 1, *frame)

    def cut(at: tuple[Array, ...], first: Any, env: Array) -> Array:
        found = jax.lax.dynamic_slice(ring, (*at, first, env, *[0] * len(frame)), sizes)
        return jax.device_put(found, _DEVICE).reshape((window, *frame))

    def sequence(address: tuple[Array, ...]) -> Array:
        *at, start, env = address
        first = jnp.minimum(start, rows - window)
        # What may go round the end: the last rows and the first, and of both together the window.
        both = jnp.concatenate([cut(tuple(at), first, env), cut(tuple(at), jnp.zeros_like(start), env)])
        return jax.lax.dynamic_slice_in_dim(both, start - first, window)

    return jnp.moveaxis(jax.lax.map(sequence, (*lead, start, env)), 0, 1)


def _put(ring: Array, rows: Array, at: tuple[Any, ...]) -> Array:
    begin = (*at, *[0] * (ring.ndim - len(at)))
    return jax.lax.dynamic_update_slice(ring, jax.device_put(rows, _HOST), begin)


def _each(size: int, split: bool, array: Array) -> Array:
    return array if split else jnp.broadcast_to(array, (size, *array.shape))
