"""An environment whose every number can be worked out by hand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array

from mbrl.core.types import LAST, MID, PRNGKey, TimeStep, restart


class WalkState(NamedTuple):
    tag: Array
    position: Array


def look(state: WalkState) -> Array:
    return jnp.stack([state.tag[0], state.position, state.tag[1]])


class Walk:
    """Adds the action to a position: the reward is the action, 3 terminates, a move of 0.9 or more breaks the physics.

    The observation is [tag, position, more tag]; the tag is drawn once per episode, so it names the episode.
    """

    observation_spec = specs.Array((3,), np.float32)
    action_spec = specs.BoundedArray((1,), np.float32, -1.0, 1.0)

    def reset(self, key: PRNGKey) -> tuple[WalkState, TimeStep]:
        state = WalkState(jax.random.uniform(key, (2,)), jnp.float32(0))
        return state, restart(look(state))

    def step(self, state: WalkState, action: Array) -> tuple[WalkState, TimeStep]:
        position = state.position + jnp.where(action[0] >= 0.9, jnp.nan, action[0])
        state = WalkState(state.tag, position)
        over = position >= 3
        # The Python number makes the reward weakly typed, as Brax's can be.
        reward = jnp.where(action[0] >= 0.9, 1.0, 0.0) + action[0]
        timestep = TimeStep(jnp.where(over, LAST, MID), reward, 1.0 - over, look(state))
        return state, timestep
