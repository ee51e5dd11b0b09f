"""Sampled Gumbel MuZero on `mctx` (Danihelka et al. 2022; Hubert et al. 2021 for continuous actions).

Every node stores K candidate actions, drawn from a proposal beta: the policy, a share of it with a wider deviation. A
candidate's prior is pi(a) / beta(a), which makes the search's policy improvement one of pi whatever beta is (Hubert et
al. 2021, eq. 5). Of a discrete policy all actions are candidates, with the policy itself as prior.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import mctx as _mctx
from jaxtyping import Array, Float, Int

from mbrl.core import parallel
from mbrl.core.distributions import OneHot
from mbrl.core.errors import UserError
from mbrl.core.types import Params, PRNGKey
from mbrl.planners import tree as trees
from mbrl.planners.base import (
    Plan,
    Problem,
    check,
    check_config,
    chosen,
    finite,
    into_bounds,
    moments,
    normal,
    proposed,
    worth,
)
from mbrl.worldmodels.base import Latent

mctx: Any = _mctx  # its dataclasses, made by chex, look without fields to a type checker


@dataclasses.dataclass(frozen=True)
class MCTSConfig:
    """Sampled Gumbel MuZero."""

    name: str = "mctx"
    """The planner."""
    simulations: int = 32
    """Model steps: each adds a node."""
    candidates: int = 16
    """K, actions drawn at every node."""
    considered: int = 16
    """Actions of the root that sequential halving begins with."""
    wide_share: float = 0.0
    """Share of the candidates that is drawn with a wider deviation."""
    wide: float = 2.0
    """How much wider."""
    gumbel: float = 0.0
    """Scale of the noise that the root's actions are chosen with: 1 to explore in training, 0 to act."""
    scale_by: Literal["siblings", "tree"] = "siblings"
    """Values are divided by their range among a node's actions, or by that of the whole tree."""
    least_range: float = 0.0
    """Least such range, in units of return: smaller differences count for what they are."""


class MCTS:
    """A ``Planner``; it keeps nothing between calls."""

    def __init__(self, config: MCTSConfig, problem: Problem) -> None:
        """Describe the search.

        Raises:
            UserError: for a problem without policy or value, or numbers out of range.
        """
        check("mctx", problem, "policy", "value")
        least = {"simulations": 1, "candidates": 1, "considered": 1, "wide_share": 0, "wide": 1, "gumbel": 0,
                 "least_range": 0}
        most = {"simulations": 10_000, "candidates": 4096, "considered": 4096, "wide_share": 1}
        check_config("mctx", config, least, most)
        if problem.discrete and config.candidates != problem.actions:
            raise UserError(
                f"planner mctx takes all of a discrete action space: candidates must be {problem.actions}; got "
                f"{config.candidates}"
            )
        self.config, self.problem = config, problem

    @property
    def steps(self) -> int:
        """Model steps of one plan."""
        return self.config.simulations

    def initial(self, batch_size: int) -> Float[Array, "B 0"]:
        """Return nothing, for B environments."""
        return jnp.zeros((batch_size, 0))

    def plan(self, params: Params, key: PRNGKey, latent: Latent, carry: Array) -> tuple[Plan, Array]:
        """Search from ``latent [B]`` (see ``Planner``)."""
        root_key, search_key = jax.random.split(key)
        candidates, logits, value = self._look(params, root_key, latent)
        root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=(latent, candidates, value))
        output = mctx.gumbel_muzero_policy(
            params, search_key, root, self._recur, self.config.simulations,
            max_num_considered_actions=self.config.considered, gumbel_scale=self.config.gumbel,
            qtransform=functools.partial(TRANSFORMS[self.config.scale_by], least=max(self.config.least_range, _TINY)),
        )
        summary = output.search_tree.summary()
        q = jnp.where(summary.visit_counts > 0, summary.qvalues, summary.value[:, None])
        weights = output.action_weights
        plan = Plan(
            action=_pick(candidates, output.action),
            candidates=candidates,
            weights=weights,
            value=moments(q, weights)[0],
            spread=moments(q, weights)[1],
            sequence=None,
            fan=None,
            tree=output.search_tree,
            steps=jnp.int32(self.steps),
        )
        return plan, carry

    def _recur(self, params: Params, key: PRNGKey, action: Int[Array, "B"], embedding: Any) -> tuple[Any, Any]:
        """Take one step from each environment's node (`mctx`'s recurrent function)."""
        latent, candidates, before = embedding
        step_key, look_key = jax.random.split(key)
        arrival = self.problem.step(params, step_key, latent, _pick(candidates, action))
        following, logits, value = self._look(params, look_key, arrival.latent)
        # Where the model ran away nothing follows, and as much is lost as was expected there. That is bad by
        # the measure of what is found elsewhere: a number worse than any would leave the means no digits for the rest.
        known = finite(arrival, value, rows=1)
        output = mctx.RecurrentFnOutput(
            reward=jnp.where(known, arrival.reward, before - 1 - jnp.abs(before)),
            discount=jnp.where(known, self.problem.discount * arrival.going, 0.0),
            prior_logits=jnp.where(known[:, None], logits, 0.0),
            value=jnp.where(known, value, 0.0),
        )
        return output, chosen(known, (arrival.latent, following, value), embedding)

    def _look(self, params: Params, key: PRNGKey, latent: Latent) -> tuple[Array, Array, Array]:
        """Return candidates ``[B, K, A]``, their prior's logits ``[B, K]`` and the critics' mean ``[B]``."""
        problem, count = self.problem, self.config.candidates
        policy = proposed(problem, params, latent)
        batch = policy.mode().shape[0]
        value = worth(problem, params, latent, policy.mode()[:, 0]).mean(0)
        if isinstance(policy, OneHot):
            return jnp.broadcast_to(jnp.eye(count), (batch, count, count)), policy.log_probs, value
        wide_key, eps_key = jax.random.split(key)
        eps = normal(eps_key, (batch, count, problem.actions))
        logits = jnp.zeros((batch, count))
        if self.config.wide_share > 0:
            unit = parallel.draw(jax.random.uniform, wide_key, (batch, count), axis=0)
            eps = jnp.where((unit < self.config.wide_share)[..., None], self.config.wide, 1.0) * eps
            logits = -_log_ratio(eps, self.config.wide_share, self.config.wide)
        spread = jax.tree.map(lambda x: x[:, None], policy)
        action = trees.act(spread, eps, jnp.zeros((batch, count), jnp.int32))
        return into_bounds(problem, action), logits, value


def _log_ratio(eps: Float[Array, "B K A"], share: float, wide: float) -> Float[Array, "B K"]:
    """Return log beta(a) - log pi(a) of a = mu + sigma eps; the squash's slope cancels."""
    square, size = jnp.square(eps).sum(-1), eps.shape[-1]
    wider = 0.5 * (1 - 1 / wide**2) * square - size * jnp.log(wide)
    return jnp.logaddexp(jnp.log1p(-share), jnp.log(share) + wider)


def _among_siblings(tree: Any, node: Int[Array, ""] | int, *, least: float) -> Float[Array, "K"]:
    """Return the scaled values of a node's actions as Danihelka et al. (2022) do: their own range becomes 1.

    Where actions hardly differ that blows their differences up, the error of the value with them.
    """
    return mctx.qtransform_completed_by_mix_value(tree, node, epsilon=least)


def _within_tree(tree: Any, node: Int[Array, ""] | int, *, least: float) -> Float[Array, "K"]:
    """Return them with the range of all values found in the search as 1 (Schrittwieser et al. 2020, eq. 5)."""
    completed = mctx.qtransform_completed_by_mix_value(tree, node, rescale_values=False)
    found = tree.children_rewards + tree.children_discounts * tree.children_values
    visited = tree.children_visits > 0
    low = jnp.where(visited, found, jnp.inf).min()
    high = jnp.where(visited, found, -jnp.inf).max()
    return (completed - completed.min()) / jnp.maximum(jnp.where(visited.any(), high - low, 0.0), least)


TRANSFORMS = {"siblings": _among_siblings, "tree": _within_tree}
_TINY = 1e-8  # of a range, as in mctx


def _pick(candidates: Float[Array, "B K A"], action: Int[Array, "B"]) -> Float[Array, "B A"]:
    return jax.vmap(lambda row, at: row[at])(candidates, action)
