"""Planning with an agent's model instead of acting by its policy; nothing is trained again."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mbrl import planners
from mbrl.agents.base import ActOutput, Agent, AgentState, Mode, Player
from mbrl.behaviours.actor_critic import ActorCritic
from mbrl.behaviours.policy_value import PolicyValue
from mbrl.behaviours.soft_actor_critic import SoftActorCritic
from mbrl.behaviours.temporal_difference import TemporalDifference
from mbrl.core.errors import UserError
from mbrl.core.types import Params, PRNGKey, TimeStep
from mbrl.planners import Planner, Problem, from_model
from mbrl.planners.base import Arrival
from mbrl.planners.mcts import MCTSConfig
from mbrl.planners.soft_tree import SoftTreeConfig
from mbrl.worldmodels.base import Latent
from mbrl.worldmodels.ensemble import Ensemble
from mbrl.worldmodels.latent_td import LatentTD
from mbrl.worldmodels.muzero import MuZeroModel
from mbrl.worldmodels.rssm import RSSM

# Where the episode goes on less likely than this, nothing that follows counts.
_RARE = 1e-6


class Planned(NamedTuple):
    """What a planning agent remembers of N environments."""

    memory: PyTree  # the agent's own
    plan: PyTree  # the planner's carry


class Particles(NamedTuple):
    """P guesses of where each of N environments is."""

    latent: Latent  # [*N, P, ...]
    weight: Float[Array, "*N P"]  # of the particles whose episode may have ended; their mean is 1


def with_planner(agent: Player, config: Any, cost: planners.Cost | None = None) -> Agent:
    """Return an agent that filters as before and plans where it would have asked its policy, or another planner.

    Args:
        agent: with a ``problem``.
        config: of the planner, from ``PLANNERS``; of discrete actions all are candidates, whatever it says.
        cost: see ``with_cost``.

    Raises:
        UserError: the agent has no model to plan in, or the planner cannot work on it.
    """
    if not isinstance(agent, Agent) or agent.problem is None:
        raise UserError(
            f"{config.name} needs a world model to plan in, which this agent lacks; "
            "take dreamer, mbpo, muzero, pets or tdmpc2"
        )
    if cost is not None and isinstance(config, planners.NoPlannerConfig):
        raise UserError("planner none looks at no cost: the policy acts as it learned to; take another planner")
    problem = agent.problem if cost is None else planners.with_cost(agent.problem, cost)
    planner = planners.make(whole(config, problem), problem)

    def initial(batch_size: int) -> Planned:
        return Planned(agent.initial(batch_size), planner.initial(batch_size))

    def act(state: AgentState, key: PRNGKey, carry: Planned, timestep: TimeStep, mode: Mode) -> ActOutput:
        act_key, plan_key = jax.random.split(key)
        # It filters and no more: its own action, which may be a plan already, is not wanted but where it is random.
        output = agent.act(state, act_key, carry.memory, timestep, "random")
        begun = forget(planner, carry.plan, timestep)
        if mode == "random":
            return output._replace(carry=Planned(output.carry, begun))
        plan, following = planner.plan(state.params, plan_key, output.carry.latent, begun)
        memory = output.carry._replace(action=plan.action)
        return ActOutput(plan.action, Planned(memory, following), output.context)

    return agent._replace(initial=initial, act=act)


def whole(config: Any, problem: Problem) -> Any:
    """Return a planner's config with all of a discrete action space as candidates, however many it says."""
    count: dict[str, Any] = {"candidates": problem.actions}
    if isinstance(config, SoftTreeConfig):
        count |= {"width": problem.actions, "root_candidates": None}
    searches = problem.discrete and isinstance(config, MCTSConfig | SoftTreeConfig)
    return dataclasses.replace(config, **count) if searches else config


def forget(planner: Planner, carry: PyTree, timestep: TimeStep) -> PyTree:
    """Return a planner's carry with that of environments whose episode begins, ``[N]``, as if never planned for."""
    first = timestep.first()
    fresh = planner.initial(first.shape[0])
    return jax.tree.map(lambda new, old: jnp.where(first.reshape((-1, *(1,) * (old.ndim - 1))), new, old), fresh, carry)


def dreamer_problem(model: RSSM, behaviour: ActorCritic) -> Problem:
    """Return what Dreamer's parts amount to for a planner; its critic is the one critic."""

    def value(params: Params, latent: Latent) -> Float[Array, "1 *N"]:
        return behaviour.value(params["critic"], model.features(latent)).mean()[None]

    policy = lambda params, latent: behaviour.act(params["actor"], latent)
    gamma, discrete = behaviour.config.gamma, behaviour.policy.discrete
    return from_model(model, model.actions, gamma, policy, value, discrete)


def action_value_problem(
    model: Ensemble | LatentTD, behaviour: SoftActorCritic | TemporalDifference, gamma: float
) -> Problem:
    """Return what a model and critics of actions amount to for a planner: all critics, of the policy's mode."""

    def value(params: Params, latent: Latent) -> Float[Array, "E *N"]:
        action = behaviour.act(params["actor"], latent).mode()
        return behaviour.values(params["critic"], model.features(latent), action)

    policy = lambda params, latent: behaviour.act(params["actor"], latent)
    return from_model(model, model.actions, gamma, policy, value)


def muzero_problem(model: MuZeroModel, behaviour: PolicyValue) -> Problem:
    """Return what MuZero's parts amount to for a planner; its value is the one critic."""
    value = lambda params, latent: behaviour.value(params["critic"], latent).mean()[None]
    policy = lambda params, latent: behaviour.act(params["actor"], latent)
    return from_model(model, model.actions, behaviour.config.gamma, policy, value, behaviour.policy.discrete)


def particles_of(latent: Latent, count: int) -> Particles:
    """Return that many particles ``[N, P]`` of each of ``latent [N]``, all in the same place."""
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], count, *x.shape[1:])), latent)
    return Particles(copies, jnp.ones((jax.tree.leaves(latent)[0].shape[0], count)))


def particle_problem(model: Ensemble, gamma: float, *, keep: bool) -> Problem:
    """Return an ensemble as a problem in which P particles follow each candidate; no policy, no value.

    A particle p counts by the share w_p of it that has not ended: r = mean_p w_p r_p, c = mean_p w_p c_p,
    w_p' = w_p c_p / c. The return of a candidate, sum_t r_t prod_i gamma c_i, is with that the mean over the particles
    of each one's own (Chua et al. 2018, algorithm 1).

    Args:
        model: whose members move the particles.
        gamma: discount.
        keep: whether a particle stays with its member; see ``Ensemble.propagate``.
    """

    def step(params: Params, key: PRNGKey, latent: Particles, action: Float[Array, "B A"]) -> Arrival:
        after = model.propagate(params["model"], key, latent.latent, action, keep=keep)
        prediction = model.predict(params["model"], after)
        reward = (latent.weight * prediction.reward.mean()).mean(-1)
        lasting = latent.weight * prediction.discount.mean()
        going = lasting.mean(-1)
        weight = lasting / jnp.maximum(going, _RARE)[:, None]
        return Arrival(Particles(after, weight), reward, going)

    return Problem(step, model.actions, gamma)
