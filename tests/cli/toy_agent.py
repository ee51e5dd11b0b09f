"""An agent that compiles in a moment: it acts at random and counts its updates. Importing this registers it."""

import dataclasses

import jax
import jax.numpy as jnp

from mbrl.agents import AGENTS
from mbrl.agents.base import ActOutput, Agent, AgentEntry, Diagnosis, UpdateOutput
from mbrl.core.types import action_dim, as_dict

# What makes a run of it short.
SETTINGS = """
agent: toy
replay: {capacity: 64, batch_size: 2, batch_length: 4}
num_envs: 2
prefill: 8
epoch: 8
train_ratio: 8
checkpoint: {every: 32}
"""


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """The toy's config."""

    name: str = "toy"
    """The agent."""
    gain: float = 1.0
    """What an update adds."""


def make(config, _observation_spec, action_spec):
    """Return the toy."""
    actions = action_dim(action_spec)

    def act(_state, key, carry, _timestep, mode):
        action = jax.random.uniform(key, (carry.shape[0], actions), minval=-1)
        return ActOutput(action * (mode == "train"), carry + 1, carry[:, None])

    def update(state, key, sequence):
        metrics = {"loss/toy": state["w"] + jax.random.normal(key), "update/skipped": jnp.zeros(())}
        return UpdateOutput({"w": state["w"] + config.gain}, sequence.context, metrics)

    def diagnose(_state, _key, sequence, _context):
        observation = as_dict(sequence.timestep.observation)
        zeros = jnp.zeros(sequence.action.shape[:2])
        return Diagnosis(observation, zeros, zeros + 1, zeros, zeros, observation, zeros, zeros + 1)

    return Agent(lambda _: {"w": jnp.zeros(())}, lambda n: jnp.zeros(n), act, update, diagnose, 0.9)


AGENTS["toy"] = AgentEntry(ToyConfig, make)
