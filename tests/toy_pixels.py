"""An environment that is seen: a ball that rolls and is pushed, as a binary image, with a picture and bodies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from mbrl.core.types import MID, TimeStep, restart

SIDE = 10


class BallState(NamedTuple):
    place: jax.Array  # [2] of the room's side
    speed: jax.Array


class Ball:
    """Rolls about a room and is thrown back by its walls; the action pushes it along x. It never terminates."""

    action_spec = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
    dt = 0.1

    @property
    def observation_spec(self):
        image = specs.BoundedArray((SIDE, SIDE, 1), np.uint8, 0, 1)
        return {"image": image, "zero": specs.Array((1,), np.float32)}

    def reset(self, key):
        place, speed = jax.random.uniform(key, (2, 2), minval=0.25, maxval=0.75)
        state = BallState(place, 0.2 * (speed - 0.5))
        return state, restart(self._show(state))

    def step(self, state, action):
        speed = state.speed.at[0].add(0.01 * action[0])
        place = state.place + speed
        speed = jnp.where((place < 0.2) | (place > 0.8), -speed, speed)
        state = BallState(jnp.clip(place, 0.2, 0.8), speed)
        return state, TimeStep(jnp.int32(MID), jnp.float32(0), jnp.float32(1), self._show(state))

    def _show(self, state):
        return {"image": disc(state.place, SIDE, SIDE)[..., None].astype(jnp.uint8), "zero": jnp.zeros(1)}

    def render(self, state, height, width):
        """The ball in white on black."""
        ball = disc(state.place, height, width)[..., None]
        return jnp.broadcast_to(jnp.where(ball, 255, 0), (height, width, 3)).astype(jnp.uint8)

    def bodies(self, state):
        """Where the ball is."""
        return {"ball": state.place}


def disc(place, height, width):
    x, y = (jnp.arange(width) + 0.5) / width - place[0], (jnp.arange(height) + 0.5) / height - place[1]
    return x[None, :] ** 2 + y[:, None] ** 2 < 0.17**2
