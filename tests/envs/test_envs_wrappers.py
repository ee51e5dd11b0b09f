"""Rescaled actions, held actions, time limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from toy_env import Walk

from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID
from mbrl.envs import ActionRepeat, Environment, RescaleAction, TimeLimit, unwrap
from mbrl.envs.wrappers import rescale


def first(env):
    return env.reset(jax.random.key(0))


class Unbounded(Walk):
    action_spec = specs.Array((1,), np.float32)


class Wide(Walk):
    action_spec = specs.BoundedArray((1,), np.float32, 0.0, 0.5)


@pytest.mark.parametrize("lead", [(), (4,), (3, 4)])
def test_rescaling_maps_the_unit_interval_onto_the_bounds(lead):
    spec = specs.BoundedArray((2,), np.float32, [-1.0, 0.0], [1.0, 5.0])
    action = jnp.broadcast_to(jnp.array([0.3, -0.6]), (*lead, 2))
    np.testing.assert_allclose(rescale(spec, action), np.broadcast_to([0.3, 1.0], (*lead, 2)), rtol=1e-6)
    np.testing.assert_allclose(rescale(spec, 100 * action), np.broadcast_to([1.0, 0.0], (*lead, 2)))


def test_an_action_in_bounds_already_is_not_changed_by_a_bit():
    spec = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
    action = jax.random.uniform(jax.random.key(0), (100, 1), minval=-1)
    np.testing.assert_array_equal(rescale(spec, action), action)


def test_rescale_action_clips_first():
    env = RescaleAction(Wide())
    state, _ = first(env)
    assert (env.action_spec.minimum, env.action_spec.maximum) == (-1, 1)
    assert env.step(state, jnp.array([0.0]))[1].reward == 0.25
    assert env.step(state, jnp.array([7.0]))[1].reward == 0.5


def test_actions_without_bounds_are_told():
    with pytest.raises(UserError, match=r"'mine/walk' are .*, but must be discrete or bounded"):
        RescaleAction(Unbounded(), "mine/walk")


def test_a_held_action_adds_rewards_up_and_stops_at_last():
    env = ActionRepeat(Walk(), 4)
    state, timestep = first(env)
    assert timestep.step_type == FIRST
    state, timestep = env.step(state, jnp.array([0.5]))
    assert (timestep.step_type, timestep.reward, timestep.discount) == (MID, 2, 1)
    state, timestep = env.step(state, jnp.array([0.5]))
    # 3 is reached in the second of four steps, so two are not taken.
    assert (timestep.step_type, timestep.reward, timestep.discount) == (LAST, 1, 0)
    assert timestep.observation[1] == 3


def test_the_limit_counts_every_step_an_action_is_held():
    env = ActionRepeat(TimeLimit(Walk(), 5), 2)
    state, _ = first(env)
    rewards, kinds, discounts = [], [], []
    for _ in range(3):
        state, timestep = env.step(state, jnp.array([0.25]))
        rewards.append(float(timestep.reward))
        kinds.append(int(timestep.step_type))
        discounts.append(float(timestep.discount))
    assert rewards == [0.5, 0.5, 0.25]
    assert kinds == [MID, MID, LAST]
    assert discounts == [1, 1, 1]


@pytest.mark.parametrize(("action", "discount"), [(0.5, 0), (0.4375, 1)])
def test_a_termination_at_the_limit_is_a_termination(action, discount):
    env = TimeLimit(Walk(), 6)
    state, _ = first(env)
    for _ in range(6):
        state, timestep = env.step(state, jnp.array([action]))
    assert (timestep.step_type, timestep.discount) == (LAST, discount)


def test_unwrap_reaches_the_bottom_of_env_and_state():
    base = Walk()
    env = RescaleAction(ActionRepeat(TimeLimit(base, 5), 2))
    assert isinstance(env, Environment)
    state, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 3))
    bottom, inner = unwrap(env, state)
    assert bottom is base
    assert inner.position.shape == (3,)
