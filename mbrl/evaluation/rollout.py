"""The policy in the environment: episodes to numbers, and recordings to look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from mbrl.agents.base import ActOutput, AgentState, Mode, Player
from mbrl.core.errors import UserError
from mbrl.core.types import PRNGKey, Sequence, TimeStep, to_env_action
from mbrl.envs.base import VectorEnvironment


class Evaluation(NamedTuple):
    """The first episode of each of E environments."""

    returns: Float[Array, "E"]  # undiscounted
    lengths: Int[Array, "E"]  # agent steps; times the action repeat they are env steps
    terminated: Bool[Array, "E"]  # the episode ended with discount 0, not by a time limit


class Recording(NamedTuple):
    """T steps of N environments, automatic resets included."""

    sequence: Sequence  # [T, N, ...]
    probed: PyTree  # [T, N, ...] what the probe saw of the environments' state at each time step


Evaluate: TypeAlias = Callable[[AgentState, PRNGKey], Evaluation]
Record: TypeAlias = Callable[[AgentState, PRNGKey], Recording]


class _Actor(NamedTuple):
    key: PRNGKey
    env: PyTree  # [N, ...]
    timestep: TimeStep  # [N, ...]
    carry: PyTree  # [N, ...]


class _Tally(NamedTuple):
    evaluation: Evaluation
    done: Bool[Array, "E"]


def make_evaluate(agent: Player, env: VectorEnvironment, episodes: int) -> Evaluate:
    """Return a jitted ``(agent_state, key) -> Evaluation`` of the policy's mode.

    Exactly the first episode of each environment counts, however long it is, so short episodes are not
    over-represented. It runs until the last of them has ended: the environment has to have a time limit.

    Args:
        agent: whose ``act`` is evaluated, in mode "eval".
        env: environments of its own, one per episode.
        episodes: E, how many.

    Raises:
        UserError: if ``env`` does not have one environment per episode.
    """
    if env.num_envs != episodes:
        raise UserError(
            f"evaluation over {episodes} episodes was given {env.num_envs} environments; it needs one per episode"
        )

    def evaluate(agent_state: AgentState, key: PRNGKey) -> Evaluation:
        zero = jnp.zeros(episodes)
        no = jnp.zeros(episodes, bool)
        start = _start(agent, env, key), _Tally(Evaluation(zero, zero.astype(jnp.int32), no), no)
        _, tally = jax.lax.while_loop(_running, partial(_play, agent, env, agent_state), start)
        return tally.evaluation

    return jax.jit(evaluate)


def make_record(
    agent: Player,
    env: VectorEnvironment,
    steps: int,
    mode: Mode = "eval",
    probe: Callable[[Any], PyTree] = lambda _: None,
) -> Record:
    """Return a jitted ``(agent_state, key) -> Recording`` of ``steps`` steps of every environment.

    Args:
        agent: whose ``act`` chooses the actions.
        env: N environments, which start afresh.
        steps: T.
        mode: "train" samples from the policy, as imagination does; "eval" takes its mode.
        probe: what to keep of the vector environment's state, e.g. the joint positions a drawing needs.
    """

    def record(agent_state: AgentState, key: PRNGKey) -> Recording:
        body = partial(_film, agent, env, mode, probe, agent_state)
        return jax.lax.scan(body, _start(agent, env, key), length=steps)[1]

    return jax.jit(record)


def _start(agent: Player, env: VectorEnvironment, key: PRNGKey) -> _Actor:
    reset_key, act_key = jax.random.split(key)
    return _Actor(act_key, *env.reset(reset_key), agent.initial(env.num_envs))


def _advance(
    agent: Player, env: VectorEnvironment, mode: Mode, agent_state: AgentState, actor: _Actor
) -> tuple[_Actor, ActOutput]:
    key, act_key = jax.random.split(actor.key)
    output = agent.act(agent_state, act_key, actor.carry, actor.timestep, mode)
    env_state, timestep = env.step(actor.env, to_env_action(env.action_spec, output.action))
    return _Actor(key, env_state, timestep, output.carry), output


def _film(
    agent: Player,
    env: VectorEnvironment,
    mode: Mode,
    probe: Callable[[Any], PyTree],
    agent_state: AgentState,
    actor: _Actor,
    _: None,
) -> tuple[_Actor, Recording]:
    after, output = _advance(agent, env, mode, agent_state, actor)
    return after, Recording(Sequence(actor.timestep, output.action, output.context), probe(actor.env))


def _running(loop: tuple[_Actor, _Tally]) -> Bool[Array, ""]:
    return ~jnp.all(loop[1].done)


def _play(
    agent: Player, env: VectorEnvironment, agent_state: AgentState, loop: tuple[_Actor, _Tally]
) -> tuple[_Actor, _Tally]:
    actor, _ = _advance(agent, env, "eval", agent_state, loop[0])
    (returns, lengths, terminated), done = loop[1]
    timestep, running = actor.timestep, ~done
    counted = Evaluation(
        returns=returns + jnp.where(running, timestep.reward, 0),
        lengths=lengths + running,
        terminated=terminated | (running & timestep.last() & (timestep.discount == 0)),
    )
    return actor, _Tally(counted, done | timestep.last())
