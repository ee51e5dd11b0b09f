"""Several seeds in one program: `vmap` over the ``TrainState``.

Each seed is the run it would be by itself, up to rounding. What all of them share, because it depends on the config
alone, is kept once: env steps, updates, where the ring stands. So the loops that depend on it stay loops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mbrl.core.types import PRNGKey
from mbrl.replay.ring import RingState
from mbrl.runner.config import Config
from mbrl.runner.state import TrainState

Found = TypeVar("Found")

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


def over_seeds(config: Config[Any], init: Callable, epoch: Callable) -> tuple[Callable, Callable]:
    """Return the first state's function and an epoch for as many seeds as the config trains."""
    if config.seeds == 1:
        return init, epoch
    return jax.vmap(init, out_axes=AXES), jax.vmap(epoch, in_axes=(AXES,), out_axes=(AXES, 0))


def evaluate_seeds(config: Config[Any], evaluate: Callable[..., Found]) -> Callable[..., Found]:
    """Return an evaluation of every seed's agent, each with a key of its own: what it returns is ``[S, ...]``."""
    return evaluate if config.seeds == 1 else jax.jit(jax.vmap(evaluate))


def pick(config: Config[Any], state: TrainState, number: int = 0) -> TrainState:
    """Return the state of one seed, counted from 0, as a run of that seed alone would have it."""
    if config.seeds == 1:
        return state
    take = lambda axis, part: part if axis is _SHARED else jax.tree.map(lambda x: x[number], part)
    return jax.tree.map(take, AXES, state, is_leaf=lambda x: x is _SHARED)


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
