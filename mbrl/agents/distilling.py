"""What a policy learns from the planner that acts in its place: losses on replayed states, and what is told of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, TypeAlias, get_args

import jax
from jaxtyping import Array, Float, Int

from mbrl.agents.searching import Searcher, Target
from mbrl.core import parallel
from mbrl.core.distributions import OneHot
from mbrl.core.errors import UserError, unknown
from mbrl.core.types import Metrics
from mbrl.planners import NoPlannerConfig, Problem
from mbrl.planners.base import Proposal
from mbrl.planners.distil import cross_entropy, moment_match
from mbrl.planners.soft_tree import SoftTreeConfig

Lesson: TypeAlias = Literal["none", "cross_entropy", "moment_match", "value"]

# Losses towards what replay keeps of searches; ``value`` searches anew in every update and keeps nothing.
IMITATIONS = {"cross_entropy": cross_entropy, "moment_match": moment_match}


@dataclasses.dataclass(frozen=True)
class DistilConfig:
    """What the policy learns from the planner."""

    name: Lesson = "none"
    """`cross_entropy` over the plan's candidates, `moment_match` of their normal, `value`: the gradient of the plan's
    value itself, which the soft tree alone has; or `none`."""
    scale: float = 1.0
    """Weight of that loss; `behaviour.actor_scale` is the weight of the actor's own, and may be 0."""
    reanalyse: float = 0.25
    """Share of a replayed sequence's steps that each update searches again; of `value`, of those it learns from."""


def check(config: DistilConfig, planner: Any, problem: Problem) -> None:
    """Raise a UserError for values outside their range, or a lesson that the planner or the policy has no part in."""
    if config.name not in get_args(Lesson):
        raise unknown("agent.distil", config.name, get_args(Lesson))
    if not (config.scale >= 0 and math.isfinite(config.scale)):
        raise UserError(f"agent.distil.scale must be at least 0 and finite; got {config.scale}")
    if not 0 <= config.reanalyse <= 1:
        raise UserError(f"agent.distil.reanalyse must lie in [0, 1]; got {config.reanalyse}")
    if config.name == "value" and config.reanalyse == 0:
        raise UserError("agent.distil.reanalyse must be above 0 for value, which learns from what it searches alone")
    if config.name != "none" and isinstance(planner, NoPlannerConfig):
        raise UserError(f"agent.distil {config.name} needs a planner to learn from; set agent.planner, to mppi perhaps")
    if config.name == "moment_match" and problem.discrete:
        raise UserError("agent.distil moment_match needs continuous actions, which have moments; take cross_entropy")
    if config.name == "value" and not isinstance(planner, SoftTreeConfig):
        raise UserError(
            f"agent.distil value needs a plan whose value has a derivative: agent.planner soft_tree; got {planner.name}"
        )


def unrefined(planner: SoftTreeConfig, problem: Problem, share: float) -> Searcher:
    """Return what the lesson ``value`` searches with: the tree before it is refined.

    Refined candidates have left where the policy put them for where the value no longer rises, so that hardly any of
    its derivative reaches the policy.
    """
    return Searcher(dataclasses.replace(planner, refine=0), problem, share)


def imitation(config: DistilConfig, policy: Proposal, target: Target) -> Float[Array, "N"]:
    """Return the loss of a policy ``[N]`` towards targets ``[N]``, whether they are known or not."""
    return IMITATIONS[config.name](policy, target.candidates, target.weights)


def told(
    policy: Proposal, target: Target, loss: Float[Array, "N"], counts: Float[Array, "T B"], updates: Int[Array, ""]
) -> Metrics:
    """Return metrics of a lesson, means over the steps that count.

    Args:
        policy: ``[N]`` with N = T B, in the order of ``[T, B]`` flattened, as all that follows.
        target: ``[N]``.
        loss: ``[N]``.
        counts: 1 where there is a target to learn from.
        updates: done so far.
    """
    surprise = cross_entropy(policy, target.candidates, target.weights)
    # Of discrete actions several candidates may be the same one.
    discrete = isinstance(policy, OneHot)
    shares = (target.weights[..., None] * target.candidates).sum(-2) if discrete else target.weights
    entropy = -jax.scipy.special.xlogy(shares, shares).sum(-1)
    # Of continuous actions a weight is no density: there the divergence is from the candidates' normal.
    moments = lambda: moment_match(policy, target.candidates, target.weights)
    apart = surprise - entropy if discrete else moments()
    each = {"loss": loss, "age": target.age(updates), "entropy": entropy, "kl": apart}
    means = {name: parallel.masked_mean(values.reshape(counts.shape), counts) for name, values in each.items()}
    return {f"distil/{name}": jax.lax.stop_gradient(value) for name, value in means.items()} | {
        "distil/known": counts.mean()
    }
