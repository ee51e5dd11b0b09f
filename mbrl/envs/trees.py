"""What every environment needs to do to whole trees of arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from mbrl.core.types import FIRST, LAST, Observation, TimeStep


def strong(tree: Any) -> Any:
    """Return the tree with strongly typed leaves.

    What came from a Python number is weakly typed; fed back into a jitted step it compiles that step twice.
    """
    return jax.tree.map(_strong, tree)


def _strong(leaf: Any) -> Array:
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype) if array.weak_type else array


def select(mask: Bool[Array, "N"], yes: Any, no: Any) -> Any:
    """Return ``yes`` where ``mask`` holds and ``no`` elsewhere, for trees whose leaves all are ``[N, ...]``."""
    return jax.tree.map(lambda y, n: jnp.where(_along(mask, y), y, n), yes, no)


def _along(mask: Bool[Array, "N"], leaf: Array) -> Bool[Array, "N ..."]:
    return mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))


def guard(timestep: TimeStep, previous: Observation) -> tuple[TimeStep, Bool[Array, "N"]]:
    """Cut the episodes whose step is not finite, and say which.

    Such a step becomes a truncation (LAST, discount 1) of reward 0 that repeats the previous observation; a FIRST
    step stays FIRST.

    Args:
        timestep: what N environments said, ``[N, ...]``.
        previous: the last finite observation of each, ``[N, ...]``.

    Returns:
        The time step, finite throughout, and where it was not before.
    """
    finite = jnp.isfinite(timestep.reward) & jnp.isfinite(timestep.discount)
    for leaf in jax.tree.leaves(timestep.observation):
        finite &= jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim)))
    cut = TimeStep(
        step_type=jnp.where(timestep.first(), FIRST, LAST).astype(jnp.int32),
        reward=jnp.zeros_like(timestep.reward),
        discount=jnp.ones_like(timestep.discount),
        observation=previous,
    )
    return select(finite, timestep, cut), ~finite
