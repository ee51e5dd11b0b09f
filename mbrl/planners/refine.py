"""Gradient steps on the actions of a tree that is grown, each kept only where it helps.

What is refined is the tree's core: the S root candidates of the greatest soft weight, each with the path that follows
the greatest weight below it. The paths share nothing but the root, so that each has a value, a step length and a guard
of its own, and the root's value rises with any of theirs.
    u <- clip(u + alpha g, -trust, trust),  delta = sigma u,  g = d Q_low / d u,  Q_low = mean_e Q_e - kappa std_e Q_e
with alpha from the last change of u and g (Barzilai & Borwein 1988). A step after which Q_low of the tree evaluated
anew is not greater is taken back and alpha shrinks: what a critic's noise promises is not believed unheard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.planners.base import take
from mbrl.planners.tree import Grown, Shape, Structure
from mbrl.planners.tree_backup import NEVER

SHRINK, GROW = 0.25, 2.0  # of a step's length, where it did not help and where the slope grew with it


class Climb(NamedTuple):
    """Where the paths are; axes of a path: R steps of A actions."""

    u: Float[Array, "B R S A"]  # delta in deviations of the policy
    slope: Float[Array, "B R S A"]
    value: Float[Array, "B S"]  # Q_low
    length: Float[Array, "B S"]  # alpha


def core(shape: Shape, grown: Grown, paths: int) -> tuple[Shape, Structure]:
    """Return the best ``paths`` of a tree, as a tree that grew so many nodes a round."""
    nodes, edges = grown.nodes, grown.nodes.edges
    log_soft = grown.worth.log_soft
    score = jnp.where((edges.parent == 0) & edges.present, log_soft, 2 * NEVER)
    best, here = jax.lax.top_k(score, paths)
    where, present = [], []
    for _ in range(shape.rounds):
        there = best > NEVER / 2
        where.append(here.astype(jnp.int32))
        present.append(there)
        child = (edges.parent[:, None] == here[..., None]) & edges.present[:, None] & there[..., None]
        score = jnp.where(child, log_soft[:, None], 2 * NEVER)
        best, here = score.max(-1), jnp.argmax(score, -1)
    slot, eps = take((nodes.slot, nodes.eps), jnp.concatenate(where, 1))
    above = jnp.array([0] * paths + list(range(1, 1 + (shape.rounds - 1) * paths)), jnp.int32)
    few = Structure(jnp.broadcast_to(above, slot.shape), slot, jnp.concatenate(present, 1), eps)
    return dataclasses.replace(shape, width=paths), few


def climb(
    value: Callable[[Array], Array], first: Float[Array, "B R S A"], steps: int, step: float, trust: float, guard: bool
) -> Float[Array, "B R S A"]:
    """Return u after some gradient steps from 0.

    Args:
        value: ``u -> Q_low [B, S]``, each of its own path alone.
        first: zeros of u's shape.
        steps: how many.
        step: Euclidean length of the first one.
        trust: greatest entry of u.
        guard: whether a step that does not help is taken back.
    """

    def look(u: Array) -> tuple[Array, Array]:
        worth, back = jax.vjp(value, u)
        return worth, back(jnp.ones_like(worth))[0]

    def body(at: Climb, _: None) -> tuple[Climb, None]:
        u = jnp.clip(at.u + at.length[:, None, :, None] * at.slope, -trust, trust)
        worth, slope = look(u)
        moved, turned = u - at.u, slope - at.slope
        bend = -(moved * turned).sum((1, 3))
        newton = jnp.square(moved).sum((1, 3)) / jnp.where(bend > 0, bend, 1.0)
        length = jnp.where(bend > 0, newton, GROW * at.length)
        better = worth > at.value if guard else jnp.isfinite(worth)
        wide = better[:, None, :, None]
        kept = Climb(jnp.where(wide, u, at.u), jnp.where(wide, slope, at.slope), jnp.where(better, worth, at.value),
                     jnp.where(better, length, jnp.minimum(length, SHRINK * at.length)))
        return kept, None

    worth, slope = look(first)
    size = jnp.sqrt(jnp.square(slope).sum((1, 3)) + 1e-30)
    last, _ = jax.lax.scan(body, Climb(first, slope, worth, step / size), length=steps)
    return last.u
