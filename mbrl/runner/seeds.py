"""Several seeds in one program: `vmap` over the ``TrainState``, or on a CPU one after another.

Each seed is the run it would be by itself, up to rounding. What all of them share, because it depends on the config
alone, is kept once: env steps, updates, where the ring stands. So the loops that depend on it stay loops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mbrl.core.types import Metrics, PRNGKey
from mbrl.replay.ring import RingState
from mbrl.runner.config import Config
from mbrl.runner.state import TrainState

Found = TypeVar("Found")
Epoch: TypeAlias = Callable[[TrainState], tuple[TrainState, Metrics]]

# Which parts of the state have the seeds as their first axis.
_SHARED: Any = None
_OWN: Any = 0
AXES = TrainState(_OWN, _OWN, RingState(_OWN, _SHARED, _SHARED), _SHARED, _SHARED, _OWN, _OWN)


def run_key(config: Config[Any]) -> PRNGKey | jax.Array:
    """Return the key a run begins with; for several seeds one each, of ``seed``, ``seed + 1``, …"""
    if config.seeds == 1:
        return jax.random.key(config.seed)
    return jax.vmap(jax.random.key)(_numbers(config))


def keys_of(config: Config[Any], named: Callable[[int], PRNGKey]) -> PRNGKey | jax.Array:
    """Return ``named(seed)``, for several seeds one each."""
    if config.seeds == 1:
        return named(config.seed)
    return jnp.stack([named(int(seed)) for seed in _numbers(config)])


def over_seeds(config: Config[Any], init: Callable, epoch: Epoch) -> tuple[Callable, Epoch]:
    """Return the first state's function and an epoch for as many seeds as the config trains."""
    if config.seeds == 1:
        return init, epoch
    # A core is busy with one seed; of several at once it only has more in its caches (docs/performance.md).
    every = in_turn if jax.default_backend() == "cpu" else side_by_side
    return jax.vmap(init, out_axes=AXES), every(epoch)


def side_by_side(epoch: Epoch) -> Epoch:
    """Return an epoch of several seeds, all of them at once; their metrics are ``[S]``."""
    return jax.vmap(epoch, in_axes=(AXES,), out_axes=(AXES, 0))


def in_turn(epoch: Epoch) -> Epoch:
    """Return what ``side_by_side`` does, but each seed begins its epoch when the one before has ended its own.

    A state is as ``AXES`` says, with S seeds; metrics are ``[S]``.
    """

    def every(state: TrainState) -> tuple[TrainState, Metrics]:
        shared = _parts(state, _SHARED)

        def one(own: TrainState, number: jax.Array) -> tuple[TrainState, tuple[TrainState, Metrics]]:
            mine = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, keepdims=False), own)
            after, metrics = epoch(_joined(mine, shared))
            put = lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, number, 0)
            return jax.tree.map(put, own, _parts(after, _OWN)), (_parts(after, _SHARED), metrics)

        own = _parts(state, _OWN)
        # The states are what is carried, not what is scanned over, so that they are changed where they lie.
        own, (after, metrics) = jax.lax.scan(one, own, jnp.arange(jax.tree.leaves(own)[0].shape[0]))
        return _joined(own, jax.tree.map(lambda x: x[0], after)), metrics

    return every


def _parts(state: TrainState, which: Any) -> TrainState:
    """Return the parts that each seed has of its own, or those that all share; None stands for the others."""
    return jax.tree.map(lambda axis, part: part if axis == which else None, AXES, state, is_leaf=_is_none)


def _joined(own: TrainState, shared: TrainState) -> TrainState:
    """Undo ``_parts``."""
    take = lambda axis, mine, common: common if axis is _SHARED else mine
    return jax.tree.map(take, AXES, own, shared, is_leaf=_is_none)


def _is_none(x: Any) -> bool:
    return x is None


def evaluate_seeds(config: Config[Any], evaluate: Callable[..., Found]) -> Callable[..., Found]:
    """Return an evaluation of every seed's agent, each with a key of its own: what it returns is ``[S, ...]``."""
    return evaluate if config.seeds == 1 else jax.jit(jax.vmap(evaluate))


def pick(config: Config[Any], state: TrainState, number: int = 0) -> TrainState:
    """Return the state of one seed, counted from 0, as a run of that seed alone would have it."""
    if config.seeds == 1:
        return state
    take = lambda axis, part: part if axis is _SHARED else jax.tree.map(lambda x: x[number], part)
    return jax.tree.map(take, AXES, state, is_leaf=_is_none)


def summarise(values: dict[str, Any]) -> dict[str, Any]:
    """Return metrics as numbers; of several seeds the means over those that have a number, and each one's.

    The means stand under the metrics' own names, the seeds' numbers under `seeds`, name by name.
    """
    if all(np.ndim(value) == 0 for value in values.values()):
        return {name: float(value) for name, value in values.items()}
    each = {name: np.asarray(value, np.float64) for name, value in values.items()}
    known = {name: value[np.isfinite(value)] for name, value in each.items()}
    means = {name: float(value.mean()) if value.size else float("nan") for name, value in known.items()}
    return means | {"seeds": {name: value.tolist() for name, value in each.items()}}


def _numbers(config: Config[Any]) -> np.ndarray:
    return np.arange(config.seed, config.seed + config.seeds, dtype=np.uint32)
