"""Two classic control problems as small JAX environments, with the numbers that are usual since OpenAI Gym.

Neither needs anything but the equations below, so both run wherever JAX does. An episode of either is truncated at its
``length``, which the observation does not tell.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array, Float, Int

from mbrl.core.types import LAST, MID, PRNGKey, TimeStep, restart


class ClassicState(NamedTuple):
    """All there is to know of either problem."""

    physics: Float[Array, "P"]  # what the equations of motion are about
    time: Int[Array, ""]  # steps since FIRST


class CartPole:
    """A pole on a cart that is pushed left or right by 10 N; 1 for every step until the pole or the cart is lost.

    Of Barto, Sutton and Anderson 1983 ("Neuronlike adaptive elements that can solve difficult learning control
    problems") without friction, with the usual numbers: masses 1 and 0.1 kg, half the pole 0.5 m, g = 9.8 m/s^2, Euler
    steps of 0.02 s. The episode terminates where the pole leans over by more than 12 degrees or the cart is more than
    2.4 m from the middle, and is truncated after 500 steps. State and observation: x [m], x' [m/s], theta [rad] from
    upright, theta' [rad/s]; at first each uniform in [-0.05, 0.05].
    """

    length, optimal_return = 500, 500.0
    gravity, cart, pole, half_length, push, dt = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
    most_x, most_theta = 2.4, 12 * np.pi / 180

    @property
    def observation_spec(self) -> specs.Array:
        """``[4]``."""
        return specs.Array((4,), np.float32, name="observation")

    @property
    def action_spec(self) -> specs.Array:
        """0 pushes left, 1 right."""
        return specs.DiscreteArray(2, np.int32, name="action")

    def reset(self, key: PRNGKey) -> tuple[ClassicState, TimeStep]:
        """Start an episode."""
        physics = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
        return ClassicState(physics, jnp.int32(0)), restart(physics)

    def step(self, state: ClassicState, action: Array) -> tuple[ClassicState, TimeStep]:
        """Push for one step; positions move by the velocities before it (explicit Euler)."""
        _, v, theta, omega = state.physics
        force = jnp.where(action == 1, self.push, -self.push)
        total, moment = self.cart + self.pole, self.pole * self.half_length
        sin, cos = jnp.sin(theta), jnp.cos(theta)
        free = (force + moment * omega**2 * sin) / total
        alpha = (self.gravity * sin - cos * free) / (self.half_length * (4 / 3 - self.pole * cos**2 / total))
        acceleration = free - moment * alpha * cos / total
        change = jnp.stack([v, acceleration, omega, alpha])
        physics, time = state.physics + self.dt * change, state.time + 1
        lost = (jnp.abs(physics[0]) > self.most_x) | (jnp.abs(physics[2]) > self.most_theta)
        return _arrive(physics, time, physics, jnp.float32(1), lost, self.length)


class Pendulum:
    """A pendulum that a weak motor swings up and holds; the reward is minus a cost, 0 at best.

    r = -(theta^2 + 0.1 theta'^2 + 0.001 u^2) of the state before the step, theta in [-pi, pi) from upright, torque u in
    [-2, 2] N m, and theta'' = 3 g / (2 l) sin theta + 3 u / (m l^2) with g = 10 m/s^2, m = 1 kg, l = 1 m (a rod), steps
    of 0.05 s, |theta'| <= 8 rad/s: `Pendulum-v1` of OpenAI Gym (Brockman et al. 2016). Never terminates, truncated
    after 200 steps. Observation: cos theta, sin theta, theta'; at first theta in [-pi, pi], theta' in [-1, 1].
    """

    length = 200
    gravity, mass, rod, dt, most_speed, most_torque = 10.0, 1.0, 1.0, 0.05, 8.0, 2.0

    @property
    def observation_spec(self) -> specs.Array:
        """``[3]``."""
        return specs.Array((3,), np.float32, name="observation")

    @property
    def action_spec(self) -> specs.Array:
        """The torque, ``[1]``."""
        return specs.BoundedArray((1,), np.float32, -self.most_torque, self.most_torque, name="action")

    def reset(self, key: PRNGKey) -> tuple[ClassicState, TimeStep]:
        """Start an episode."""
        most = jnp.array([np.pi, 1.0], jnp.float32)
        physics = jax.random.uniform(key, (2,), jnp.float32, -most, most)
        return ClassicState(physics, jnp.int32(0)), restart(_seen(physics))

    def step(self, state: ClassicState, action: Array) -> tuple[ClassicState, TimeStep]:
        """Turn the motor for one step; the angle moves by the new velocity (semi-implicit Euler)."""
        theta, omega = state.physics
        torque = jnp.clip(action[0], -self.most_torque, self.most_torque)
        folded = (theta + np.pi) % (2 * np.pi) - np.pi
        reward = -(folded**2 + 0.1 * omega**2 + 0.001 * torque**2)
        alpha = 1.5 * self.gravity / self.rod * jnp.sin(theta) + 3.0 / (self.mass * self.rod**2) * torque
        omega = jnp.clip(omega + self.dt * alpha, -self.most_speed, self.most_speed)
        physics = jnp.stack([theta + self.dt * omega, omega])
        return _arrive(physics, state.time + 1, _seen(physics), reward, jnp.bool_(False), self.length)


def _seen(physics: Float[Array, "2"]) -> Float[Array, "3"]:
    return jnp.stack([jnp.cos(physics[0]), jnp.sin(physics[0]), physics[1]])


def _arrive(
    physics: Array, time: Array, seen: Array, reward: Array, ends: Array, length: int
) -> tuple[ClassicState, TimeStep]:
    """Return state and time step: terminated where it ends, truncated after ``length`` steps."""
    step_type = jnp.where(ends | (time >= length), LAST, MID).astype(jnp.int32)
    return ClassicState(physics, time), TimeStep(step_type, reward, 1.0 - ends.astype(jnp.float32), seen)
