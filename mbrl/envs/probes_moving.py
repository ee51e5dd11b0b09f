"""Two probes in which something moves: a sparse reward at the end of a long way, and an action of many dimensions.

They have what all probes have (see ``probes``). On them planning is measured beside the policy.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array, Bool, Float

from mbrl.core.types import PRNGKey, TimeStep, restart
from mbrl.envs.probes import Probe, ProbeState


class Goal(Probe):
    """A point that an action moves by a tenth of itself; 1 at the end, after 15 steps, for standing at the goal.

    Optimal return 1, random 0.0571 (the chance that 15 uniform steps add up to between 3.5 and 6.5 tenths). The goal
    lies at -0.5 or 0.5, is seen beside the point, and reaches 0.15 to either side. One episode in eighteen finds it by
    chance, and five steps before the end already it may be too late: the reward is sparse, the way to it long.
    """

    optimal_return = 1.0
    random_return = 0.05712
    length = 15
    seen = 2

    def draw(self, key: PRNGKey) -> Float[Array, ""]:
        """Draw a goal."""
        return 0.5 * jax.random.rademacher(key, (), jnp.float32)

    def look(self, state: ProbeState) -> Float[Array, "seen"]:
        """The goal, and where the point is: what is owed is the way it has gone."""
        return jnp.stack([state.context, state.owed])

    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """Nothing until the last step, which pays if the point is at the goal."""
        place = state.owed + 0.1 * jnp.clip(action[0], -1.0, 1.0)
        there = (jnp.abs(place - state.context) < 0.15) & (state.time == self.length - 1)
        return there.astype(jnp.float32), place, jnp.bool_(True)

    def best(self, state: ProbeState) -> Array:
        """Straight to the goal."""
        return jnp.clip(10 * (state.context - state.owed), -1.0, 1.0)[None]


class Joints(Probe):
    """Sixteen numbers, each moved by three tenths of an action of its own; 1 - 2 times their mean square after a step.

    Optimal return 10 - 2 (0.45^2 + 0.15^2) = 9.55, random 10 - 2 (10 * 0.75^2 + 55 * 0.03) = -4.55, and -1.25 for doing
    nothing. At first each is -0.75 or 0.75. An action space of many dimensions: sixteen have to be right at once.
    """

    joints: ClassVar[int] = 16
    optimal_return = 9.55
    random_return = -4.55
    seen = joints

    @property
    def action_spec(self) -> specs.Array:
        """``[16]`` in [-1, 1]."""
        return specs.BoundedArray((self.joints,), np.float32, -1.0, 1.0, name="action")

    def reset(self, key: PRNGKey) -> tuple[ProbeState, TimeStep]:
        """Start an episode: what is owed are the numbers, which the context was at first."""
        key, draw = jax.random.split(key)
        numbers = self.draw(draw)
        state = ProbeState(jnp.int32(0), numbers, numbers, key)
        return state, restart(self.observe(state))

    def draw(self, key: PRNGKey) -> Float[Array, "joints"]:
        """Draw the numbers of the start."""
        return 0.75 * jax.random.rademacher(key, (self.joints,), jnp.float32)

    def look(self, state: ProbeState) -> Float[Array, "seen"]:
        """The numbers."""
        return state.owed

    def outcome(
        self, state: ProbeState, action: Array
    ) -> tuple[Float[Array, ""], Float[Array, "joints"], Bool[Array, ""]]:
        """Move all numbers."""
        moved = state.owed + 0.3 * jnp.clip(action, -1.0, 1.0)
        return 1 - 2 * jnp.square(moved).mean(), moved, jnp.bool_(True)

    def best(self, state: ProbeState) -> Array:
        """Each to 0, as far as it goes in a step."""
        return jnp.clip(-state.owed / 0.3, -1.0, 1.0)
