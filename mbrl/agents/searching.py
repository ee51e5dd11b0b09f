"""Searches as an agent's way to act and as what it learns from: what replay keeps of them, and how they are renewed."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from mbrl import planners
from mbrl.agents.base import AgentState, Mode
from mbrl.agents.planning import forget, whole
from mbrl.behaviours.base import Behaviour, rows_first
from mbrl.core import parallel
from mbrl.core.errors import UserError
from mbrl.core.types import Params, PRNGKey, TimeStep
from mbrl.planners import Plan, Planner, Problem
from mbrl.planners.base import into_bounds, middle, normal
from mbrl.planners.gradient import GradientConfig
from mbrl.planners.mcts import MCTSConfig
from mbrl.planners.shooting import ShootingConfig
from mbrl.planners.soft_tree import SoftTreeConfig
from mbrl.worldmodels.base import Latent, WorldModel

NEVER = -1  # updates before a search that was not made
NOISE = 0.3  # deviation with which a plan that has no distribution is explored (Hafner et al. 2020)


class Memory(NamedTuple):
    """What acting by a search remembers of N environments."""

    latent: Latent  # [N, ...]
    action: Float[Array, "N A"]  # the last action taken
    plan: PyTree  # [N, ...] the planner's carry


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


def exploring(config: Any, problem: Problem) -> Any:
    """Return a planner's config with what it draws its action by while it trains.

    mctx has Gumbel noise of scale 1, with which its choice is a draw from its improved policy (Danihelka et al. 2022);
    shooting draws an elite by weight and, of continuous actions, adds noise of the elites' deviation (Hansen et al.
    2024); gradient ascent, whose plans have no distribution, adds noise of a fixed one. The soft tree's own config has
    no noise: of its candidates one is drawn (see ``Searcher``). Noise whose size is set is of that size.
    """
    if isinstance(config, MCTSConfig):
        return dataclasses.replace(config, gumbel=config.gumbel or 1.0)
    if isinstance(config, ShootingConfig):
        return dataclasses.replace(config, choose="sample", noise=not problem.discrete)
    return dataclasses.replace(config, noise=config.noise or NOISE) if isinstance(config, GradientConfig) else config


def settled(config: Any) -> Any:
    """Return a planner's config without noise, as it acts in evaluation."""
    if isinstance(config, MCTSConfig):
        return dataclasses.replace(config, gumbel=0.0)
    if isinstance(config, ShootingConfig):
        return dataclasses.replace(config, noise=False)
    return dataclasses.replace(config, noise=0.0) if isinstance(config, GradientConfig) else config


class Searcher:
    """Acts by a search and renews what earlier ones found; holds planners, never parameters.

    While it trains, one of a soft tree's candidates is drawn by weight. Those that were refined have all climbed to the
    same place, so there noise of a fixed deviation is added.
    """

    def __init__(self, config: Any, problem: Problem, share: float) -> None:
        """Describe the searches.

        Args:
            config: of the planner, from ``PLANNERS``; of discrete actions all are candidates, however many it says.
            problem: to search in.
            share: of a sequence's steps that ``renew`` searches again.

        Raises:
            UserError: a share that is none, or a planner that cannot work on the problem.
        """
        if not 0 <= share <= 1:
            raise UserError(f"agent.reanalyse must lie in [0, 1]; got {share}")
        config = whole(config, problem)
        self.share, self.draws, self.problem = share, isinstance(config, SoftTreeConfig), problem
        self.noise = NOISE if isinstance(config, SoftTreeConfig) and config.refine and not problem.discrete else 0.0
        self.calm: Planner = planners.make(settled(config), problem)
        self.bold: Planner = planners.make(exploring(config, problem), problem)

    def initial(self, batch_size: int) -> PyTree:
        """Return the carry of environments that nothing was planned for."""
        return self.bold.initial(batch_size)

    def act(
        self, model: WorldModel, behaviour: Behaviour, state: AgentState, key: PRNGKey, memory: Memory,
        timestep: TimeStep, mode: Mode,
    ) -> tuple[Memory, Target]:
        """Filter what N environments say and search from there; return memory, which has the action, and target.

        Args:
            model: filters.
            behaviour: chooses where nothing is searched.
            state: has ``params`` of the problem and ``updates``, how many were done.
            key: for all of it.
            memory: of the environments.
            timestep: what they say, ``[N]``.
            mode: "train" explores, "eval" takes the search's own choice, "random" makes no search.
        """
        filter_key, search_key, random_key = jax.random.split(key, 3)
        latent = model.step(state.params["model"], filter_key, memory.latent, memory.action, timestep)
        carry = forget(self.bold, memory.plan, timestep)
        action, carry, target = self.choose(state.params, search_key, latent, carry, mode, state.updates)
        if mode == "random":
            action = behaviour.choose(state.params["actor"], random_key, latent, mode)
        return Memory(latent, action, carry), target

    def choose(
        self, params: Params, key: PRNGKey, latent: Latent, carry: PyTree, mode: Mode, updates: Int[Array, ""]
    ) -> tuple[Float[Array, "N A"], PyTree, Target]:
        """Return actions, carry and what replay keeps, for ``latent [N]``.

        Args:
            params: of the problem.
            key: for the search and the draw.
            latent: where to search from.
            carry: of the planner.
            mode: "train" explores, "eval" takes the search's own choice, "random" makes no search: its action is 0.
            updates: done so far.
        """
        search_key, pick_key = jax.random.split(key)
        planner = self.calm if mode == "eval" else self.bold
        if mode == "random":
            plan = jax.eval_shape(planner.plan, params, key, latent, carry)[0]
            zeros: Plan = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), plan._replace(tree=None, fan=None))
            return zeros.action, carry, target_of(zeros, jnp.int32(NEVER))
        plan, carry = planner.plan(params, search_key, latent, carry)
        action = self._drawn(pick_key, plan) if self.draws and mode == "train" else plan.action
        return action, carry, target_of(plan, updates)

    def _drawn(self, key: PRNGKey, plan: Plan) -> Float[Array, "N A"]:
        """Return a candidate of each environment, drawn by its weight, with noise where they hardly differ."""
        gumbel = parallel.draw(jax.random.gumbel, key, plan.weights.shape, axis=0)
        which = jnp.argmax(jnp.log(plan.weights) + gumbel, -1)
        action = jax.vmap(lambda row, at: row[at])(plan.candidates, which)
        if self.noise == 0:
            return action
        eps = normal(jax.random.fold_in(key, 1), action.shape)
        return into_bounds(self.problem, action + self.noise * middle(self.problem)[1][None] * eps)

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
        if self.count(length) == 0:
            return stored
        times, plan = self.some(params, key, latent)
        fresh = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape((batch, len(times), *x.shape[1:])), 0, 1), target_of(plan, updates)
        )
        return jax.tree.map(lambda old, new: old.at[times].set(new), stored, fresh)

    def some(self, params: Params, key: PRNGKey, latent: Latent) -> tuple[Int[Array, "S"], Plan]:
        """Return S times of a sequence, drawn by the key, and the plans ``[B S]`` from there (``rows_first``).

        Args:
            params: of the problem.
            key: for the times and the search.
            latent: of every step, ``[T, B]``.
        """
        length, batch = jax.tree.leaves(latent)[0].shape[:2]
        most = self.count(length)
        time_key, search_key = jax.random.split(key)
        times = jnp.argsort(jax.random.uniform(time_key, (length,)))[:most]
        rows = rows_first(jax.tree.map(lambda x: x[times], latent))
        return times, self.bold.plan(params, search_key, rows, self.bold.initial(most * batch))[0]

    def count(self, length: int) -> int:
        """Return of how many times of a sequence that is the share: of one at least, where it is not 0."""
        return max(round(self.share * length), int(self.share > 0))


def target_of(plan: Plan, updates: Int[Array, ""]) -> Target:
    """Return what replay keeps of plans; no gradient passes."""
    searched = jnp.broadcast_to(updates, plan.value.shape)
    return jax.lax.stop_gradient(Target(plan.candidates, plan.weights, plan.value, searched))
