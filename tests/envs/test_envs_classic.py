"""The classic problems against their equations, worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.core.types import FIRST, LAST, MID
from mbrl.envs import make
from mbrl.envs.classic import CartPole, ClassicState, Pendulum
from mbrl.envs.config import EnvConfig

cartpole, pendulum = CartPole(), Pendulum()
push, turn = jax.jit(cartpole.step), jax.jit(pendulum.step)


def at(*physics, time=0):
    return ClassicState(jnp.array(physics, jnp.float32), jnp.int32(time))


def test_a_push_from_rest_by_hand():
    # Upright and at rest: free = 10 / 1.1, alpha = -free / (0.5 (4/3 - 0.1/1.1)), x'' = free - 0.05 alpha / 1.1.
    free = 10 / 1.1
    alpha = -free / (0.5 * (4 / 3 - 0.1 / 1.1))
    state, timestep = push(at(0, 0, 0, 0), jnp.int32(1))
    expected = [0, 0.02 * (free - 0.05 * alpha / 1.1), 0, 0.02 * alpha]
    np.testing.assert_allclose(timestep.observation, expected, rtol=1e-5)
    assert (timestep.step_type, timestep.reward, timestep.discount) == (MID, 1, 1)
    # The other way is the mirror image; the second step moves what the first set in motion.
    _, mirrored = push(at(0, 0, 0, 0), jnp.int32(0))
    np.testing.assert_allclose(mirrored.observation, -timestep.observation, rtol=1e-6)
    _, moved = push(state, jnp.int32(1))
    assert moved.observation[0] == pytest.approx(0.02 * float(timestep.observation[1]), rel=1e-5)


def test_a_leaning_pole_by_hand():
    # theta = 0.1, theta' = 1: the pole's own pull counts, and the cart is pushed back by it.
    sin, cos = np.sin(0.1), np.cos(0.1)
    free = (-10 + 0.05 * sin) / 1.1
    alpha = (9.8 * sin - cos * free) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    _, timestep = push(at(1, -1, 0.1, 1), jnp.int32(0))
    expected = [0.98, -1 + 0.02 * (free - 0.05 * alpha * cos / 1.1), 0.12, 1 + 0.02 * alpha]
    np.testing.assert_allclose(timestep.observation, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("physics", "time", "step_type", "discount"),
    [
        ((2.39, 1, 0, 0), 0, LAST, 0),  # beyond 2.4 m
        ((0, 0, -0.2, -1), 0, LAST, 0),  # beyond 12 degrees, 0.2094
        ((0, 0, 0.2, 0), 0, MID, 1),
        ((0, 0, 0, 0), 499, LAST, 1),  # truncated
        ((0, 0, 0.2, 1), 499, LAST, 0),  # lost in the very last step
    ],
)
def test_how_an_episode_of_the_cart_ends(physics, time, step_type, discount):
    _, timestep = push(at(*physics, time=time), jnp.int32(1))
    assert (int(timestep.step_type), float(timestep.discount), float(timestep.reward)) == (step_type, discount, 1)


def test_a_swing_by_hand():
    # theta = pi / 2, theta' = 1, u = 3 which counts as 2: theta'' = 15 + 6.
    _, timestep = turn(at(np.pi / 2, 1), jnp.array([3.0]))
    assert float(timestep.reward) == pytest.approx(-((np.pi / 2) ** 2 + 0.1 + 0.001 * 4), rel=1e-5)
    theta = np.pi / 2 + 0.05 * (1 + 0.05 * 21)
    np.testing.assert_allclose(timestep.observation, [np.cos(theta), np.sin(theta), 2.05], rtol=1e-4, atol=1e-6)


def test_angles_are_folded_and_speeds_bounded():
    one, two = (turn(at(theta, 8), jnp.array([2.0]))[1] for theta in (0.5, 0.5 - 2 * np.pi))
    assert float(one.reward) == pytest.approx(float(two.reward), rel=1e-4)
    assert float(one.observation[2]) == 8
    _, last = turn(at(0, 0, time=199), jnp.array([0.0]))
    assert (int(last.step_type), float(last.discount), float(last.reward)) == (LAST, 1, 0)


@pytest.mark.parametrize("name", ["classic/cartpole", "classic/pendulum"])
def test_they_stand_in_the_registry(name):
    env = make(EnvConfig(name))
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    assert int(timestep.step_type) == FIRST
    _, other = jax.jit(env.reset)(jax.random.key(1))
    assert (timestep.observation != other.observation).any()
    action = jnp.int32(1) if name == "classic/cartpole" else jnp.ones(1)
    _, following = jax.jit(env.step)(state, action)
    assert following.observation.shape == env.observation_spec.shape


def test_full_torque_is_an_action_of_one():
    env = make(EnvConfig("classic/pendulum"))
    state, _ = env.reset(jax.random.key(0))
    _, timestep = env.step(state, jnp.ones(1))
    theta, omega = state.env.physics
    assert float(timestep.reward) == pytest.approx(-float(theta**2 + 0.1 * omega**2 + 0.004), rel=1e-5)
