"""Soft gradient tree: a tree search over continuous actions that gradients flow through.

Grown M nodes at a time (``tree``), valued softly (``tree_backup``), then refined: on the fixed tree the actions move up
the gradient of each path's pessimistic value, within a trust region, and a step is kept only where that path's own
value, evaluated anew, is greater than before.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core.errors import UserError
from mbrl.core.types import Params, PRNGKey
from mbrl.planners import tree as trees
from mbrl.planners.base import Plan, Problem, Warm, check, check_config, cold, into_bounds, moments, shifted, take
from mbrl.planners.refine import Followed, best_paths, climb, follow
from mbrl.planners.tree import Grown, Noise, Shape
from mbrl.planners.tree_backup import NEVER, lower
from mbrl.worldmodels.base import Latent

stop = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class SoftTreeConfig:
    """The soft gradient tree."""

    name: str = "soft_tree"
    """The planner."""
    rounds: int = 2
    """R, how often the tree grows; also how deep it can be."""
    width: int = 16
    """M, nodes added in each round; 1 is the sequential search."""
    root_candidates: int | None = None
    """Candidate actions of the root; `null` for as many as other nodes have, at least as many as are added a round."""
    candidates: int = 16
    """K, candidate actions of every other node."""
    depth: int | None = None
    """Nodes as deep as this are not grown further; `null` for no limit but the rounds."""
    temperature: float = 0.1
    """Of the soft maximum, in units of the spread of the root's candidates: towards 0 the best counts alone."""
    relative: bool = True
    """Whether the temperature is in such units; otherwise it is in those of the rewards."""
    mix: bool = True
    """Whether a node's own value counts as one of its estimates beside those of the nodes below it."""
    pessimism: float = 0.5
    """Kappa: how many deviations of the critics are taken off their mean."""
    refine: int = 7
    """Gradient steps on the tree's actions; 0 for none."""
    paths: int = 4
    """Root candidates that are refined, each with the best path below it; the rest of the tree is then left out."""
    horizon: int = 8
    """H, steps of a refined path, at least as many as rounds; and of the plan that the next search begins with."""
    step: float = 0.5
    """Length of the first gradient step, in the policy's deviations."""
    trust: float = 2.0
    """How far an action may move from where it was drawn, in the policy's deviations."""
    guard: bool = True
    """Whether a gradient step is kept only where its path's pessimistic value rises; leave it on."""
    through: Literal["value", "unrolled"] = "value"
    """What a derivative of the plan sees: the refined displacements as constants, or the gradient steps as well."""
    choose: Literal["best", "mean"] = "best"
    """The action: the candidate of the greatest value, or the weighted mean, which was not itself evaluated; of
    discrete actions the best alone."""


class SoftTree:
    """A ``Planner``."""

    def __init__(self, config: SoftTreeConfig, problem: Problem) -> None:
        """Describe the search.

        Raises:
            UserError: for a problem without policy or value, or numbers out of range.
        """
        check("soft_tree", problem, "policy", "value")
        _check(config, problem)
        self.config, self.problem = config, problem
        depth = config.rounds if config.depth is None else config.depth
        self.shape = Shape(
            config.rounds, config.width, _root(config), config.candidates, depth, config.temperature, config.relative,
            config.mix, config.pessimism,
        )
        self.refine = 0 if problem.discrete else config.refine

    @property
    def steps(self) -> int:
        """Model steps of one plan; a derivative of one, by state and action alone, costs as much as the step."""
        config, looks = self.config, 1 + self.refine
        refined = config.paths * config.horizon * (2 * looks + 1) if self.refine else 0
        return config.rounds * config.width + refined

    def initial(self, batch_size: int) -> Warm:
        """Return the carry of environments that nothing was planned for."""
        return cold(batch_size, self.config.horizon, self.problem.actions)

    def plan(self, params: Params, key: PRNGKey, latent: Latent, carry: Warm) -> tuple[Plan, Warm]:
        """Search from ``latent [B]`` (see ``Planner``)."""
        tree_key, path_key = jax.random.split(key)
        noise = trees.draw(tree_key, self.shape, carry.known.shape[0], self.problem.actions)
        # Of discrete actions no plan is carried on: all of them are candidates already.
        grown = self.grow(params, latent, noise, None if self.problem.discrete else carry)
        if self.refine == 0:
            return self._unrefined(grown)
        keys = jax.random.split(path_key, self.config.horizon)
        followed, value = self.refined(params, latent, grown, keys, carry)
        return self._refined(grown, followed, value)

    def grow(self, params: Params, latent: Latent, noise: Noise, warm: Warm | None = None) -> Grown:
        """Grow a tree from ``latent [B]`` on given noise; differentiable in parameters and latent."""
        return trees.grow(self.problem, self.shape, params, latent, noise, warm)

    def refined(
        self, params: Params, latent: Latent, grown: Grown, keys: Array, warm: Warm
    ) -> tuple[Followed, Float[Array, "B"]]:
        """Refine a tree's best paths; differentiable in parameters and latent.

        Args:
            params: of the problem.
            latent: the root, ``[B]``.
            grown: the tree that was grown from it.
            keys: ``[H]``, of the model's noise along the paths.
            warm: the plan before, or zeros.

        Returns:
            the paths, and the root's pessimistic value with them as its candidates.
        """
        config = self.config
        paths = best_paths(jax.tree.map(stop, grown), config.paths, config.rounds, warm)
        hidden: Any = stop if config.through == "value" else lambda x: x
        seen, root = hidden((params, latent))
        go = partial(follow, self.problem, mix=config.mix)
        look = lambda u: lower(go(seen, keys, root, paths, u).edge, config.pessimism)
        u = climb(look, jnp.zeros_like(paths.eps), self.refine, config.step, config.trust, config.guard)
        followed = go(params, keys, latent, paths, hidden(u), bounded=into_bounds)
        heat = grown.temperature[:, None]
        log_q = _log_shares(lower(followed.edge, config.pessimism), heat)
        price = heat * (log_q + math.log(config.paths))
        soft = (jnp.exp(log_q)[None] * (followed.edge - price[None])).sum(-1)
        below = config.paths * config.horizon
        worth = (grown.nodes.edges.value[:, :, 0] + below * soft) / (1 + below) if config.mix else soft
        return followed, lower(worth, config.pessimism)

    def _refined(self, grown: Grown, followed: Followed, value: Float[Array, "B"]) -> tuple[Plan, Warm]:
        """Return the plan that refined paths amount to."""
        q = lower(followed.edge, self.config.pessimism)
        weights = jnp.exp(_log_shares(q, grown.temperature[:, None]))
        taken = followed.action
        if self.config.choose == "mean":
            sequence = (weights[..., None, None] * taken).sum(1)
        else:
            sequence = take(taken, jnp.argmax(q, -1)[:, None])[:, 0]
        plan = Plan(
            action=sequence[:, 0],
            candidates=taken[:, :, 0],
            weights=weights,
            value=value,
            spread=moments(q, weights)[1],
            sequence=sequence,
            fan=followed.latent,
            tree=grown,
            steps=jnp.int32(self.steps),
        )
        return plan, shifted(sequence, jnp.ones(sequence.shape[:2]))

    def _unrefined(self, grown: Grown) -> tuple[Plan, Warm]:
        """Return the plan that a tree amounts to."""
        config, edges, worth = self.config, grown.nodes.edges, grown.worth
        # With all of the root's candidates expanded in the first round, its children are there; else anywhere.
        last = 1 + config.width if self.shape.root == config.width else None
        child = ((edges.parent == 0) & edges.present)[:, 1:last]
        log_soft = jnp.where(child, worth.log_soft[:, 1:last], 2 * NEVER)
        # Where no candidate is known, for the model ran away from all, none is better than another.
        weights = jnp.where(child.any(1, keepdims=True), jnp.where(child, jnp.exp(log_soft), 0.0), 1 / child.shape[1])
        candidates = into_bounds(self.problem, grown.nodes.action[:, 1:last])
        sequence, known = trees.best_path(grown.nodes, worth.log_soft, config.rounds)
        sequence = into_bounds(self.problem, sequence) * known[..., None]
        sequence = sequence.at[:, 0].set(jnp.where(known[:, :1] > 0, sequence[:, 0], candidates[:, 0]))
        if config.choose == "mean":
            sequence = sequence.at[:, 0].set((weights[..., None] * candidates).sum(1))
        plan = Plan(
            action=sequence[:, 0],
            candidates=candidates,
            weights=weights,
            value=lower(worth.value[:, :, 0], config.pessimism),
            spread=moments(lower(worth.edge, config.pessimism)[:, 1:last], weights)[1],
            sequence=sequence,
            fan=None,
            tree=grown,
            steps=jnp.int32(self.steps),
        )
        rest = config.horizon - config.rounds
        pad = lambda x: jnp.pad(x, ((0, 0), (0, rest)) + ((0, 0),) * (x.ndim - 2))
        return plan, shifted(pad(sequence), pad(known))


def _log_shares(q: Float[Array, "B S"], heat: Float[Array, "B 1"]) -> Float[Array, "B S"]:
    """Return log softmax(q / heat); differences are divided, not values, whose rounding would then have to cancel."""
    return jax.nn.log_softmax((q - stop(q.max(1, keepdims=True))) / heat)


_MOST_ROOT = 4096  # candidates of the root


def _root(config: SoftTreeConfig) -> int:
    """Return the number of the root's candidates."""
    return max(config.width, config.candidates) if config.root_candidates is None else config.root_candidates


def _check(config: SoftTreeConfig, problem: Problem) -> None:
    least: dict[str, float | int] = dict.fromkeys(("rounds", "width", "candidates", "paths"), 1)
    least |= dict.fromkeys(("pessimism", "refine", "step", "trust"), 0) | {"horizon": config.rounds}
    most = {"rounds": 64, "width": 4096, "candidates": 4096, "horizon": 1000, "refine": 1000}
    check_config("soft_tree", config, least, most)
    if not 0 < config.temperature < float("inf"):
        raise UserError(f"planner soft_tree: temperature must be above 0 and finite; got {config.temperature}")
    if config.root_candidates is not None and not config.width <= config.root_candidates <= _MOST_ROOT:
        raise UserError(
            f"planner soft_tree: root_candidates must be between width ({config.width}), for the first round takes so "
            f"many, and {_MOST_ROOT}; got {config.root_candidates}"
        )
    if config.depth is not None and config.depth < 1:
        raise UserError(f"planner soft_tree: depth must be at least 1; got {config.depth}")
    if config.refine and not problem.discrete and config.paths > config.width:
        raise UserError(f"planner soft_tree: paths must be at most width ({config.width}); got {config.paths}")
    if problem.discrete and config.choose == "mean":
        raise UserError("planner soft_tree: of discrete actions, which have no mean, choose must be best; got mean")
    root = _root(config)
    if problem.discrete and (root, config.candidates) != (problem.actions,) * 2:
        raise UserError(
            "planner soft_tree takes all of a discrete action space: candidates and width (or root_candidates) must be "
            f"{problem.actions}; got {config.candidates} and {root}"
        )
