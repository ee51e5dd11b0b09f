"""Soft gradient tree: a tree search over continuous actions that gradients flow through.

Grown M nodes at a time (``tree``), valued softly (``tree_backup``), then refined: on the fixed tree the actions move up
the gradient of the root's pessimistic value, within a trust region, and a step is kept only where that value, of the
tree evaluated anew, is greater than before.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core.distributions import OneHot
from mbrl.core.errors import UserError
from mbrl.core.types import Params, PRNGKey
from mbrl.planners import tree as trees
from mbrl.planners.base import Plan, Problem, Warm, check, check_numbers, cold, into_bounds, moments, shifted
from mbrl.planners.refine import climb, core
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
    """Candidate actions of the root; `null` for as many as are added in a round."""
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
    refine: int = 10
    """Gradient steps on the tree's actions; 0 for none."""
    paths: int = 4
    """Root candidates that are refined, each with the best path below it; the rest of the tree is then left out."""
    step: float = 0.5
    """Length of the first gradient step, in the policy's deviations."""
    trust: float = 2.0
    """How far an action may move from where it was drawn, in the policy's deviations."""
    guard: bool = True
    """Whether a gradient step is kept only where the tree's pessimistic value rises; leave it on."""
    through: Literal["value", "unrolled"] = "value"
    """What a derivative of the plan sees: the refined actions as constants, or the gradient steps as well."""
    choose: Literal["best", "mean"] = "best"
    """The action: the candidate with the greatest weight, or the weighted mean."""


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
        root = config.width if config.root_candidates is None else config.root_candidates
        depth = config.rounds if config.depth is None else config.depth
        self.shape = Shape(
            config.rounds, config.width, root, config.candidates, depth, config.temperature, config.relative,
            config.mix, config.pessimism,
        )
        self.refine = 0 if problem.discrete else config.refine

    @property
    def steps(self) -> int:
        """Model steps of one plan; a derivative of one, by state and action alone, costs as much as the step."""
        config, looks = self.config, 1 + self.refine
        return config.rounds * (config.width + (config.paths * (2 * looks + 1) if self.refine else 0))

    def initial(self, batch_size: int) -> Warm:
        """Return the carry of environments that nothing was planned for."""
        return cold(batch_size, self.config.rounds, self.problem.actions)

    def plan(self, params: Params, key: PRNGKey, latent: Latent, carry: Warm) -> tuple[Plan, Warm]:
        """Search from ``latent [B]`` (see ``Planner``)."""
        noise = trees.draw(key, self.shape, carry.known.shape[0], self.problem.actions)
        grown = self.search(params, latent, noise, carry)
        return self.read(grown), shifted(*trees.best_path(grown.nodes, grown.worth.log_soft, self.config.rounds))

    def search(self, params: Params, latent: Latent, noise: Noise, warm: Warm | None = None) -> Grown:
        """Grow a tree from ``latent [B]`` on given noise and refine it; differentiable in params and latent."""
        grown = trees.grow(self.problem, self.shape, params, latent, noise, warm)
        if self.refine == 0:
            return grown
        shape, few = core(self.shape, jax.tree.map(stop, grown), self.config.paths)
        hidden = stop if self.config.through == "value" else lambda x: x
        heat, still = grown.temperature, hidden((params, latent, grown.temperature))

        def again(params: Params, latent: Latent, heat: Array, u: Array) -> Grown:
            moved = few._replace(eps=few.eps + u.reshape(few.eps.shape))
            return trees.regrow(self.problem, shape, params, latent, moved, noise.keys, heat)

        value = lambda u: lower(again(*still, u).worth.edge, self.config.pessimism)[:, 1 : 1 + shape.width]
        zero = jnp.zeros((few.eps.shape[0], shape.rounds, shape.width, few.eps.shape[-1]), few.eps.dtype)
        u = climb(value, zero, self.refine, self.config.step, self.config.trust, self.config.guard)
        return again(params, latent, heat, hidden(u))

    def value(self, grown: Grown) -> Float[Array, "B"]:
        """Return the root's pessimistic value."""
        return lower(grown.worth.value[:, :, 0], self.config.pessimism)

    def read(self, grown: Grown) -> Plan:
        """Return the plan that a tree amounts to."""
        edges, worth = grown.nodes.edges, grown.worth
        # With all of the root's candidates expanded in the first round, its children are there; else they may be anywhere.
        width = (worth.log_soft.shape[1] - 1) // self.config.rounds
        last = 1 + width if self.refine or self.shape.root == self.config.width else None
        child = ((edges.parent == 0) & edges.present)[:, 1:last]
        weights = jnp.where(child, jnp.exp(worth.log_soft[:, 1:last]), 0.0)
        candidates = into_bounds(self.problem, grown.nodes.action[:, 1:last])
        if self.config.choose == "mean" and not self.problem.discrete:
            action = (weights[..., None] * candidates).sum(1)
        else:
            best = jnp.argmax(jnp.where(child, worth.log_soft[:, 1:last], 2 * NEVER), 1)
            action = jax.vmap(lambda row, at: row[at])(candidates, best)
        q = lower(worth.edge, self.config.pessimism)[:, 1:last]
        sequence, _ = trees.best_path(grown.nodes, worth.log_soft, self.config.rounds)
        return Plan(
            action=action,
            candidates=candidates,
            weights=weights,
            value=self.value(grown),
            spread=moments(q, weights)[1],
            sequence=sequence,
            fan=None,
            tree=grown,
            steps=jnp.int32(self.steps),
        )


def _check(config: SoftTreeConfig, problem: Problem) -> None:
    least = {"rounds": 1, "width": 1, "candidates": 1, "pessimism": 0, "refine": 0, "paths": 1, "step": 0, "trust": 0}
    check_numbers("soft_tree", config, least, {"rounds": 64, "width": 4096, "candidates": 4096})
    if not 0 < config.temperature < float("inf"):
        raise UserError(f"planner soft_tree: temperature must be above 0 and finite; got {config.temperature}")
    if config.root_candidates is not None and config.root_candidates < config.width:
        raise UserError(
            f"planner soft_tree: root_candidates must be at least width ({config.width}), for the first round takes so "
            f"many; got {config.root_candidates}"
        )
    if config.depth is not None and config.depth < 1:
        raise UserError(f"planner soft_tree: depth must be at least 1; got {config.depth}")
    if config.refine and config.paths > config.width:
        raise UserError(f"planner soft_tree: paths must be at most width ({config.width}); got {config.paths}")
    root = config.root_candidates or config.width
    if problem.discrete and (root, config.candidates) != (problem.actions,) * 2:
        raise UserError(
            f"planner soft_tree takes all of a discrete action space: candidates and width (or root_candidates) must be "
            f"{problem.actions}; got {config.candidates} and {root}"
        )
