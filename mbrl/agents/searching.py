"""Searches as an agent's way to act and as what it learns from: what replay keeps of them, and how they are renewed."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from mbrl import planners
from mbrl.agents.base import Mode
from mbrl.behaviours.base import rows_first
from mbrl.core import parallel
from mbrl.core.errors import UserError, unknown
from mbrl.core.types import Params, PRNGKey
from mbrl.planners import Plan, Planner, Problem
from mbrl.planners.mcts import MCTSConfig
from mbrl.planners.soft_tree import SoftTreeConfig
from mbrl.worldmodels.base import Latent

Search: TypeAlias = Literal["mctx", "soft_tree"]

NEVER = -1  # updates before a search that was not made


class Target(NamedTuple):
    """What replay keeps of searches."""

    candidates: Float[Array, "*N K A"]
    weights: Float[Array, "*N K"]  # of the candidates; they sum to 1
    value: Float[Array, "*N"]  # that the search expects
    searched: Int[Array, "*N"]  # after how many updates; ``NEVER`` where no search was made

    def known(self) -> Float[Array, "*N"]:
        """Return 1 where a search was made."""
        return (self.searched != NEVER).astype(jnp.float32)

    def age(self, updates: Int[Array, ""]) -> Float[Array, "*N"]:
        """Return how many updates ago the searches were made, where one was."""
        return (updates - self.searched).astype(jnp.float32)


def described(name: str, mctx: MCTSConfig, soft_tree: SoftTreeConfig, problem: Problem) -> Any:
    """Return the config of the search of that name; of discrete actions all are candidates, however many it says.

    Raises:
        UserError: no such search.
    """
    choices: dict[str, Any] = {"mctx": mctx, "soft_tree": soft_tree}
    if name not in choices:
        raise unknown("agent.planner", name, choices)
    config = choices[name]
    if not problem.discrete:
        return config
    count: dict[str, Any] = {"candidates": problem.actions}
    if name == "soft_tree":
        count |= {"width": problem.actions, "root_candidates": None}
    return dataclasses.replace(config, **count)


class Searcher:
    """Acts by a search and renews what earlier ones found; holds planners, never parameters."""

    def __init__(self, config: Any, problem: Problem, share: float) -> None:
        """Describe the searches.

        Args:
            config: of the planner, from ``PLANNERS``. In training mctx's has Gumbel noise of scale 1, with which its
                choice is a draw from its improved policy (Danihelka et al. 2022); of others one is drawn by weight.
            problem: to search in.
            share: of a sequence's steps that ``renew`` searches again.

        Raises:
            UserError: a share that is none, or a planner that cannot work on the problem.
        """
        if not 0 <= share <= 1:
            raise UserError(f"agent.reanalyse must lie in [0, 1]; got {share}")
        self.share, self.noisy = share, isinstance(config, MCTSConfig)
        explores = dataclasses.replace(config, gumbel=1.0) if isinstance(config, MCTSConfig) else config
        self.calm: Planner = planners.make(config, problem)
        self.bold: Planner = planners.make(explores, problem)

    def initial(self, batch_size: int) -> PyTree:
        """Return the carry of environments that nothing was planned for."""
        return self.bold.initial(batch_size)

    def choose(
        self, params: Params, key: PRNGKey, latent: Latent, carry: PyTree, mode: Mode, updates: Int[Array, ""]
    ) -> tuple[Float[Array, "N A"], PyTree, Target]:
        """Return actions, carry and what replay keeps, for ``latent [N]``.

        Args:
            params: of the problem.
            key: for the search and the draw.
            latent: where to search from.
            carry: of the planner.
            mode: "train" draws, "eval" takes the search's own choice, "random" makes no search: its action is 0.
            updates: done so far.
        """
        search_key, pick_key = jax.random.split(key)
        planner = self.calm if mode == "eval" else self.bold
        if mode == "random":
            plan = jax.eval_shape(planner.plan, params, key, latent, carry)[0]
            zeros: Plan = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), plan._replace(tree=None, fan=None))
            return zeros.action, carry, _kept(zeros, jnp.int32(NEVER))
        plan, carry = planner.plan(params, search_key, latent, carry)
        action = plan.action if self.noisy or mode == "eval" else _draw(pick_key, plan)
        return action, carry, _kept(plan, updates)

    def renew(
        self, params: Params, key: PRNGKey, latent: Latent, stored: Target, updates: Int[Array, ""]
    ) -> Target:
        """Return the targets of a sequence with those of some times, drawn anew by each key, searched again.

        (Schrittwieser et al. 2021, "reanalyse".) Whole times, so that devices that have some of the sequences each
        search from as many.

        Args:
            params: of the problem.
            key: for the times and the search.
            latent: of every step, ``[T, B]``.
            stored: what replay has, ``[T, B]``.
            updates: done so far.
        """
        length, batch = stored.value.shape
        most = round(self.share * length)
        if most == 0:
            return stored
        time_key, search_key = jax.random.split(key)
        times = jnp.argsort(jax.random.uniform(time_key, (length,)))[:most]
        rows = rows_first(jax.tree.map(lambda x: x[times], latent))
        plan, _ = self.bold.plan(params, search_key, rows, self.bold.initial(most * batch))
        fresh = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape((batch, most, *x.shape[1:])), 0, 1), _kept(plan, updates)
        )
        return jax.tree.map(lambda old, new: old.at[times].set(new), stored, fresh)


def _kept(plan: Plan, updates: Int[Array, ""]) -> Target:
    """Return what replay keeps of a plan; no gradient passes."""
    searched = jnp.broadcast_to(updates, plan.value.shape)
    return jax.lax.stop_gradient(Target(plan.candidates, plan.weights, plan.value, searched))


def _draw(key: PRNGKey, plan: Plan) -> Float[Array, "N A"]:
    """Return a candidate of each environment, drawn by its weight."""
    gumbel = parallel.draw(jax.random.gumbel, key, plan.weights.shape, axis=0)
    which = jnp.argmax(jnp.log(plan.weights) + gumbel, -1)
    return jax.vmap(lambda row, at: row[at])(plan.candidates, which)
