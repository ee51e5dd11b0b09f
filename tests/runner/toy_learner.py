"""An agent that learns, compiles in a moment and notices a row that is missing: linear regression on rewards.

Importing this registers it.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mbrl.agents import AGENTS
from mbrl.agents.base import ActOutput, Agent, AgentEntry, UpdateOutput
from mbrl.core import parallel
from mbrl.core.types import action_dim, as_dict
from mbrl.envs.config import EnvConfig
from mbrl.replay.config import ReplayConfig
from mbrl.runner.config import CheckpointConfig, Config, EvalConfig


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """The learner's config."""

    name: str = "learner"
    """The agent."""
    rate: float = 0.1
    """Of each step down the gradient."""


CONFIG = Config(
    agent=LearnerConfig(),
    env=EnvConfig(name="probe/cue"),
    replay=ReplayConfig(capacity=256, batch_size=4, batch_length=4),
    evaluation=EvalConfig(every=32, episodes=2, gap=False),
    checkpoint=CheckpointConfig(every=32),
    steps=96,
    epoch=16,
    num_envs=4,
    prefill=16,
    train_ratio=8.0,
)


def flat(timestep):
    """Return an observation's numbers as one vector, [..., D]."""
    parts = as_dict(timestep.observation).values()
    lead = timestep.reward.ndim
    return jnp.concatenate([x.reshape(*x.shape[:lead], -1).astype(jnp.float32) for x in parts], -1)


def make(config, observation_spec, action_spec):
    """Return the learner: what it has learned decides how it acts."""
    width = sum(int(jnp.zeros(spec.shape).size) for spec in as_dict(observation_spec).values())
    actions = action_dim(action_spec)

    def act(state, key, carry, timestep, mode):
        value = flat(timestep) @ state["w"]
        noise = jax.random.normal(key, (carry.shape[0], actions))
        action = jnp.tanh(value[:, None] + (mode != "eval") * noise)
        return ActOutput(action, carry + 1, carry[:, None])

    def update(state, key, sequence):
        seen = flat(sequence.timestep)
        noise = parallel.draw(lambda k, shape: jax.random.normal(k, shape), key, seen.shape, axis=1)

        def loss(w):
            return jnp.mean((seen @ w + 0.1 * (noise @ w) - sequence.timestep.reward - 1.0) ** 2)

        value, gradient = parallel.mean(jax.value_and_grad(loss)(state["w"]))
        metrics = {"loss/reward": value, "update/skipped": jnp.zeros(())}
        return UpdateOutput({"w": state["w"] - config.rate * gradient}, sequence.context, metrics)

    init = lambda key: {"w": 0.1 * jax.random.normal(key, (width,))}
    return Agent(init, lambda n: jnp.zeros(n), act, update, None, 0.9)


AGENTS["learner"] = AgentEntry(LearnerConfig, make)
