"""Runs of guests: agents that bring their own training loop.

The runner lends them environments and keeps everything around the loop as it is for its own agents: evaluation, log,
saves, signals. What is saved is the policy, so that it can be played; the training itself cannot go on from it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mbrl.agents import AGENTS
from mbrl.agents.base import Course, Guest, GuestEntry, Training
from mbrl.core import heap
from mbrl.core.errors import UserError
from mbrl.core.types import PRNGKey
from mbrl.envs import HostVectorEnv, make, make_vector
from mbrl.envs.base import VectorEnvironment
from mbrl.evaluation.rollout import Evaluate, make_evaluate
from mbrl.runner import measures, stop
from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.checks import check, is_guest
from mbrl.runner.config import Config, to_yaml
from mbrl.runner.loggers import MetricsLog, Values
from mbrl.runner.reporter import Reporter, endure
from mbrl.runner.rundir import RunDir, mark_saved


class GuestState(NamedTuple):
    """What is saved of a guest: its policy, and nothing to go on from."""

    agent: Any  # AgentState
    step: Int[Array, ""]  # env steps it was trained for


class GuestProgram(NamedTuple):
    """A guest's config made runnable."""

    agent: Guest
    env: VectorEnvironment  # a single one, to look at
    init: Callable[[PRNGKey], GuestState]


class _Machine(NamedTuple):
    """What stays the same over the run; what its last telling left behind is in ``last``."""

    config: Config
    folder: RunDir
    training: Training
    evaluate: Evaluate
    saves: Checkpoints
    log: MetricsLog
    reporter: Reporter
    received: list[int]  # signals
    pace: measures.Pace
    last: list[tuple[GuestState, Values]]  # one entry, once the loop has told of its policy


def make_guest(config: Config[Any]) -> GuestProgram:
    """Build a guest's agent and environment.

    Raises:
        UserError: the environment or the agent cannot be made, or they do not go together.
    """
    entry = AGENTS[config.agent.name]
    if not isinstance(entry, GuestEntry):
        raise TypeError(f"{config.agent.name} is no guest")
    env = make_vector(config.env, 1)
    if isinstance(env, HostVectorEnv):
        raise UserError(
            f"environment {config.env.name!r} runs in Python, call by call, which {config.agent.name} cannot train in"
        )
    agent = entry.make(config.agent, env.observation_spec, env.action_spec)
    return GuestProgram(agent, env, jax.jit(lambda key: GuestState(agent.init(key), jnp.int32(0))))


def prepare(config: Config[Any]) -> tuple[GuestProgram, Evaluate, str]:
    """Return a guest's program and its evaluation, and a line that says where it will be evaluated.

    Raises:
        UserError: something in the config is not right.
    """
    check(config)
    program = make_guest(config)
    episodes = config.evaluation.episodes
    evaluate = make_evaluate(program.agent, make_vector(config.env, episodes), episodes)
    told = _training(program, config).told
    line = (
        f"{config.agent.name} trains in its own loop: evaluated every {told.step:,} env steps, first after "
        f"{told[0]:,}, last after {told[-1]:,}"
    )
    return program, evaluate, line


def refuse_to_go_on(config: Config[Any]) -> None:
    """Raise UserError where the config's agent is a guest, of which no run can go on."""
    if is_guest(config):
        raise UserError(
            f"a run of {config.agent.name} cannot go on: its training loop is its own, and what is saved is its "
            f"policy alone; start it anew in another folder, or play what there is with mbrl eval"
        )


def run(
    program: GuestProgram, evaluate: Evaluate, config: Config[Any], folder: RunDir, reporter: Reporter
) -> tuple[GuestState, Values]:
    """Let a guest train in a folder that is held.

    Returns:
        the last state, and the last line of metrics.
    """
    training = _training(program, config)
    saves = Checkpoints(folder.checkpoints, config.checkpoint.keep)
    with stop.signals(lambda: reporter.phase("stopping")) as received, MetricsLog(folder) as log:
        pace, last = measures.start_pace(0), []
        machine = _Machine(config, folder, training, evaluate, saves, log, reporter, received, pace, last)
        reporter.phase("compiling")
        heap.collect_cycles()  # nothing tells when a guest has compiled
        training.run(partial(_hear, machine))
    return last[0]


def _training(program: GuestProgram, config: Config[Any]) -> Training:
    env, steps = config.training_env, config.steps
    course = Course(config.num_envs, env.action_repeat, env.time_limit, steps, config.evaluation.every, config.seed)
    return program.agent.prepare(make(env), course)


def _hear(m: _Machine, agent: Any, metrics: dict[str, float]) -> None:
    """Evaluate, log and save the policy that the loop has come to.

    Raises:
        Interrupted: a signal was received; the policy is saved.
        RunFailedError: the policy is not finite.
    """
    told = m.training.told
    before = int(m.last[0][0].step) if m.last else 0
    step = before + told.step if m.last else told[0]
    state = GuestState(agent, jnp.int32(step))
    values: Values = {f"train/{name}": value for name, value in metrics.items()}
    _survive(m, state, values)
    m.reporter.phase("evaluating")
    found = measures.scores(m.evaluate(agent, measures.evaluation_key(m.config.seed, step)))
    values |= {name: float(value) for name, value in found.items()}
    values |= measures.timed(m.pace, step, told[-1])
    endure(m.reporter, lambda: m.log.write(step, values))
    m.reporter.phase("learning")
    m.reporter.metrics(step, told[-1], values)
    m.last[:] = [(state, values)]
    over, stopping = step == told[-1], bool(m.received)
    if over or stopping or measures.due(m.config.checkpoint.every, before, step):
        m.reporter.phase("saving")
        save = partial(_save, m, state, values)
        if over or stopping:
            save()  # there is no later one
        else:
            endure(m.reporter, save)
    if stopping and not over:
        then = f"its policy can be played, but the training of {m.config.agent.name} cannot go on from there"
        raise stop.Interrupted(m.folder.path, step, m.received[0], then)
    m.reporter.phase("learning")


def _save(m: _Machine, state: GuestState, values: Values) -> None:
    """Save the policy; the log is durable first."""
    m.log.sync()
    m.saves.save(state, int(state.step), config=to_yaml(m.config), metric=values["eval/return_mean"])
    mark_saved(m.folder)


def _survive(m: _Machine, state: GuestState, values: Values) -> None:
    """Stop a run whose policy has broken down; its last line of metrics says so, and that it has failed for good."""
    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.agent))):
        return
    step = int(state.step)
    values |= {"fault/policy": 1.0} | measures.timed(m.pace, step, m.training.told[-1])
    endure(m.reporter, lambda: m.log.write(step, values))
    m.reporter.metrics(step, m.training.told[-1], values)
    kept = "the policies saved before are" if m.folder.checkpoints.is_dir() else "none was saved before, so none is"
    raise stop.RunFailedError(
        f"stopped at env step {step:,}: the policy of {m.config.agent.name} is not finite (NaN or Inf); "
        f"{kept} in {m.folder.checkpoints}"
    )
