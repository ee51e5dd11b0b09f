"""What learns, split over the devices while nothing needs it whole (FSDP).

Between updates each device holds its share of every large array of the agent's state. For an update the parameters
come together by one exchange, all of them, for a scan uses every weight in each of its steps, and afterwards each
device keeps its share. What the optimiser remembers is never together: of ``Split`` arrays each device updates its own
columns, and the steps come together by a second exchange. (Rajbhandari et al. 2020, "ZeRO": stage 1 for the optimiser;
of stage 3 what lies between updates, while gradients are whole.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mbrl.core import parallel
from mbrl.core.rows import Split, is_split

# Numbers below which an array is on every device: there are many small ones, and together they are nothing.
_SMALL = 256
_EVERYWHERE = PartitionSpec()


def shares(agent: Any, count: int) -> Any:
    """Return a tree of ``PartitionSpec`` for an agent's state: which axis of each array is split over the devices.

    Args:
        agent: the state's shapes.
        count: of devices.
    """
    return jax.tree.map(lambda leaf: _share(leaf, count), agent, is_leaf=is_split)


def _share(leaf: Any, count: int) -> Any:
    if is_split(leaf):
        return Split(_along(1))
    able = [axis for axis, size in enumerate(leaf.shape) if size % count == 0]
    if leaf.size < _SMALL or leaf.dtype != jnp.float32 or not able:
        return _EVERYWHERE
    return _along(max(able, key=lambda axis: leaf.shape[axis]))


def _along(axis: int) -> PartitionSpec:
    return PartitionSpec(*[None] * axis, parallel.AXIS)


def updating(refresh: Callable[..., Any], specs: Any) -> Callable[..., Any]:
    """Return ``refresh``, mapped over devices, for an agent's state of which each device is given its share.

    Args:
        refresh: takes the agent's state first and returns the new one first.
        specs: of ``shares``.
    """

    def update(agent: Any, *rest: Any) -> tuple[Any, ...]:
        new, *others = refresh(_together(agent, specs), *rest)
        return jax.tree.map(_own, new, specs, is_leaf=is_split), *others

    return update


def _together(agent: Any, specs: Any) -> Any:
    """Return the state with the shares of all devices in each array, by one exchange; ``Split`` arrays stay split."""
    leaves, structure = jax.tree.flatten(agent, is_leaf=is_split)
    axes = [_axis(spec) for spec in structure.flatten_up_to(specs)]
    apart = [leaf.ravel() for leaf, axis in zip(leaves, axes, strict=True) if axis is not None]
    every = jax.lax.all_gather(jnp.concatenate([*apart, jnp.zeros(0)]), parallel.AXIS)
    begin, whole = 0, []
    for leaf, axis in zip(leaves, axes, strict=True):
        if axis is None:
            whole.append(leaf)
            continue
        parts = every[:, begin : begin + leaf.size].reshape((-1, *leaf.shape))
        shape = (*leaf.shape[:axis], -1, *leaf.shape[axis + 1 :])
        whole.append(jnp.moveaxis(parts, 0, axis).reshape(shape))
        begin += leaf.size
    return structure.unflatten(whole)


def _own(leaf: Any, spec: Any) -> Any:
    axis = _axis(spec)
    return leaf if axis is None else parallel.own(leaf, leaf.shape[axis] // parallel.devices(), axis)


def _axis(spec: Any) -> int | None:
    """Return the axis along which an array comes together for an update, None where it need not."""
    return None if is_split(spec) or spec == _EVERYWHERE else len(spec) - 1


def bring_together(mesh: Mesh | None, specs: Any) -> Callable[[Any], Any]:
    """Return what puts an agent's state whole on every device, but for ``Split`` arrays, which nobody acts on.

    Args:
        mesh: the devices.
        specs: of ``shares``; None where the state is whole already.
    """
    if mesh is None or specs is None:
        return lambda agent: agent
    place = NamedSharding(mesh, _EVERYWHERE)
    whole = lambda leaf: leaf if is_split(leaf) else jax.lax.with_sharding_constraint(leaf, place)
    return jax.jit(lambda agent: jax.tree.map(whole, agent, is_leaf=is_split))
