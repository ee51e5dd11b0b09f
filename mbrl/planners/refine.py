"""Gradient steps on the actions of a tree that is grown, each kept only where it helps.

What is refined is the tree's core: the S root candidates of the greatest soft weight, each with the path that follows
the greatest weight below it; beyond the tree a path goes on with the policy's mode, or with the plan before where it is
that. The paths share nothing but the root, so that each has a value, a step length and a guard of its own, and the
root's value rises with any of theirs.
    u <- clip(u + alpha g, -trust, trust),  delta = sigma u,  g = d Q_low / d u,  Q_low = mean_e Q_e - kappa std_e Q_e
with alpha from the last change of u and g (Barzilai & Borwein 1988). A step after which Q_low of the path evaluated
anew is not greater is taken back and alpha shrinks: what a critic's noise promises is not believed unheard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mbrl.core.types import Params
from mbrl.planners import tree as trees
from mbrl.planners.base import (
    WORST,
    Problem,
    Warm,
    believed,
    branch,
    chosen,
    finite,
    held,
    proposed,
    take,
    tiled,
    worth,
)
from mbrl.planners.tree import Grown
from mbrl.planners.tree_backup import NEVER
from mbrl.worldmodels.base import Latent

SHRINK, GROW = 0.25, 2.0  # of a step's length, where it did not help and where the slope grew with it


class Paths(NamedTuple):
    """Where S paths go before they are refined."""

    eps: Float[Array, "H B S A"]
    given: Float[Array, "H B S A"]  # actions of the plan before, which stand in place of eps
    planned: Bool[Array, "H B S"]  # where they do


class Followed(NamedTuple):
    """What S paths led through."""

    action: Float[Array, "B S H A"]
    latent: Latent  # [B, S, H + 1, ...]
    edge: Float[Array, "E B S"]  # Q of the root's candidates


class Climb(NamedTuple):
    """Where the paths are."""

    u: Float[Array, "H B S A"]  # delta in deviations of the policy
    slope: Float[Array, "H B S A"]
    value: Float[Array, "B S"]  # Q_low
    length: Float[Array, "B S"]  # alpha


def best_paths(grown: Grown, count: int, rounds: int, warm: Warm) -> Paths:
    """Return the best ``count`` paths of a tree of so many rounds, as long as the plan before."""
    nodes, edges = grown.nodes, grown.nodes.edges
    log_soft = grown.worth.log_soft
    score = jnp.where((edges.parent == 0) & edges.present, log_soft, 2 * NEVER)
    best, here = jax.lax.top_k(score, count)
    eps, planned, on = [], [], jnp.ones_like(here, bool)
    for _ in range(rounds):
        there = best > NEVER / 2
        # A path is on the plan before as far as its nodes are; beyond its last it goes on as that one did.
        on = jnp.where(there, take(nodes.planned, here), on)
        planned.append(on)
        eps.append(jnp.where(there[..., None], take(nodes.eps, here), 0.0))
        child = (edges.parent[:, None] == here[..., None]) & edges.present[:, None] & there[..., None]
        score = jnp.where(child, log_soft[:, None], 2 * NEVER)
        best, here = score.max(-1), jnp.argmax(score, -1)
    horizon = warm.known.shape[1]
    beyond = [jnp.zeros_like(eps[0])] * (horizon - rounds)
    shape = horizon, *eps[0].shape
    given = jnp.broadcast_to(jnp.swapaxes(warm.sequence, 0, 1)[:, :, None], shape)
    known = jnp.swapaxes(warm.known, 0, 1)[..., None] > 0
    return Paths(jnp.stack(eps + beyond), given, jnp.stack(planned + [on] * (horizon - rounds)) & known)


def follow(
    problem: Problem,
    params: Params,
    keys: Array,
    latent: Latent,
    paths: Paths,
    u: Float[Array, "H B S A"],
    mix: bool,
    bounded: Callable[[Problem, Array], Array] = held,
) -> Followed:
    """Go along paths from ``latent [B]`` with delta = sigma u inside each action's squash.

    Args:
        problem: with a policy.
        params: its.
        keys: ``[H]``, of the model's noise, which all paths of an environment share.
        latent: the root.
        paths: where to go.
        u: what is refined.
        mix: as in ``backup``: on a path that makes Q the mean of the 1- to H-step returns.
        bounded: how actions are kept within bounds: ``held``, so that a slope leads back from beyond them, or
            ``into_bounds``, whose derivative is that of what is done.
    """
    start = tiled(latent, u.shape[2])
    zero = jnp.zeros_like(u[0, ..., 0])

    def body(at: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        (latent, total, weight), (key, paths, u) = at, inputs
        policy = proposed(problem, params, latent)
        pushed = trees.push(problem, policy, paths.eps, paths.given, paths.planned, u)
        action = bounded(problem, pushed)
        arrival = branch(problem, params, key, latent, action)
        # Where the model runs away the path is worth nothing more, and stays where it was to be drawn.
        known = finite(arrival, rows=2)
        reward = jnp.where(known, arrival.reward, jnp.nan)
        arrival = arrival._replace(latent=chosen(known, arrival.latent, latent), reward=reward)
        total, weight = total + weight * arrival.reward, weight * problem.discount * arrival.going
        stay = worth(problem, params, arrival.latent, total) if mix else zero[None]
        return (arrival.latent, total, weight), (action, arrival.latent, total[None] + weight[None] * stay)

    last, (actions, latents, returns) = jax.lax.scan(body, (start, zero, zero + 1), (keys, paths, u))
    edge = returns.mean(0) if mix else last[1][None] + last[2][None] * worth(problem, params, last[0], zero)
    along = jax.tree.map(lambda x, y: jnp.concatenate([x[:, :, None], jnp.moveaxis(y, 0, 2)], 2), start, latents)
    return Followed(jnp.moveaxis(actions, 0, 2), along, believed(edge))


def climb(
    value: Callable[[Array], Array], first: Float[Array, "H B S A"], steps: int, step: float, trust: float, guard: bool
) -> Float[Array, "H B S A"]:
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
        slope = back(jnp.ones_like(worth))[0]
        return worth, jnp.where(jnp.isfinite(slope), slope, 0.0)

    def body(at: Climb, _: None) -> tuple[Climb, None]:
        u = jnp.clip(at.u + at.length[None, ..., None] * at.slope, -trust, trust)
        worth, slope = look(u)
        moved, turned = u - at.u, slope - at.slope
        bend = -(moved * turned).sum((0, 3))
        newton = jnp.square(moved).sum((0, 3)) / jnp.where(bend > 0, bend, 1.0)
        length = jnp.where(bend > 0, newton, GROW * at.length)
        better = worth > (at.value if guard else WORST / 2)
        wide = better[None, ..., None]
        kept = Climb(jnp.where(wide, u, at.u), jnp.where(wide, slope, at.slope), jnp.where(better, worth, at.value),
                     jnp.where(better, length, jnp.minimum(length, SHRINK * at.length)))
        return kept, None

    worth, slope = look(first)
    size = jnp.sqrt(jnp.square(slope).sum((0, 3)) + 1e-30)
    last, _ = jax.lax.scan(body, Climb(first, slope, worth, step / size), length=steps)
    return last.u
