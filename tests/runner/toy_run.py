"""A run without an agent: a few numbers that change from epoch to epoch as a function of state and key alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from mbrl.core.types import Sequence, TimeStep
from mbrl.evaluation.rollout import Evaluation
from mbrl.replay.config import ReplayConfig
from mbrl.runner import rundir
from mbrl.runner.config import CheckpointConfig, Config, EvalConfig
from mbrl.runner.epoch import Program
from mbrl.runner.reporter import Silent
from mbrl.runner.state import Faults, TrainState
from mbrl.runner.train import run

STEPS = 8  # env steps of an epoch


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """The agent's config."""

    name: str = "toy"
    rate: float = 1e-5


def toy_config(**changes):
    """Return eight epochs; evaluated every second, saved every third."""
    config = Config(
        agent=ToyConfig(),
        steps=64,
        epoch=STEPS,
        num_envs=2,
        prefill=16,
        replay=ReplayConfig(capacity=64, batch_size=2, batch_length=4),
        evaluation=EvalConfig(every=16, episodes=4),
        checkpoint=CheckpointConfig(every=24, keep=2),
        max_faults=3,
    )
    return dataclasses.replace(config, **changes)


def toy_program(*, faults_from=10**6, traces=None):
    """A program whose updates are all faulty from env step ``faults_from`` on; ``traces`` collects a 1 per trace."""

    def init(key):
        agent_key, env_key, run_key = jax.random.split(key, 3)
        agent = {"w": jax.random.normal(agent_key, (3,)), "half": jnp.ones((2, 2), jnp.bfloat16)}
        replay = {"data": jnp.zeros((4, 2)), "nothing": jnp.zeros((0, 3))}
        batch = Sequence(
            TimeStep(jnp.zeros((5, 2), jnp.int32), jnp.zeros((5, 2)), jnp.ones((5, 2)), jnp.zeros((5, 2, 3))),
            jnp.zeros((5, 2, 1)),
            jnp.zeros((5, 2, 4), jnp.bfloat16),
        )
        zero = jnp.int32(0)
        env = {"keys": jax.random.split(env_key, 2)}
        return TrainState(agent, env, replay, zero, zero, Faults(zero, zero, batch), run_key)

    def epoch(state):
        if traces is not None:
            traces.append(1)
        key, noise_key = jax.random.split(state.key)
        w = 0.9 * state.agent["w"] + jax.random.normal(noise_key, (3,))
        data = jnp.roll(state.replay["data"], 1, 0).at[0].set(w[:2])
        faulty = state.step >= faults_from
        state = state._replace(
            agent=state.agent | {"w": w},
            replay=state.replay | {"data": data},
            env={"keys": jax.vmap(lambda k: jax.random.fold_in(k, 1))(state.env["keys"])},
            step=state.step + STEPS,
            updates=state.updates + 2,
            faults=state.faults._replace(updates=state.faults.updates + 2 * faulty),
            key=key,
        )
        metrics = {"loss/toy": w.sum(), "episode/return": jnp.float32(jnp.nan), "run/updates": 1.0 * state.updates}
        return state, metrics

    epoch = jax.jit(epoch, donate_argnums=0)
    return Program(None, None, None, jax.jit(init), epoch, epoch)


default_program = functools.cache(toy_program)


@jax.jit
def toy_evaluate(agent, key):
    """Returns that depend on the agent and on the key."""
    returns = agent["w"].sum() + jax.random.normal(key, (4,))
    return Evaluation(returns, jnp.full((4,), 5, jnp.int32), jnp.zeros((4,), bool))


class StopAt(Silent):
    """Calls ``action`` when the metrics of ``step`` are reported."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def metrics(self, step, *_):
        if step == self.step:
            self.action()


def start(path, *, reporter=None, program=None, **changes):
    """Run the toy in a new folder."""
    config = toy_config(run_dir=str(path), **changes)
    with rundir.create(config) as folder:
        return run(program or default_program(), toy_evaluate, config, folder, reporter or Silent(), resume=False)


def go_on(path, *, reporter=None, program=None, **changes):
    """Go on with the toy in a folder."""
    config = toy_config(**changes)
    with rundir.reopen(path) as folder:
        return run(program or default_program(), toy_evaluate, config, folder, reporter or Silent(), resume=True)
