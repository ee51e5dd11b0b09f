"""Our environments behind Brax's door: truncation apart from termination, and a first state of its own each episode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import Walk

from mbrl.envs import EnvConfig, TimeLimit, make
from mbrl.envs.to_brax import TrainingEnv


def keys(n, seed=0):
    return jax.random.split(jax.random.PRNGKey(seed), n)


def rollout(env, state, actions):
    def step(state, action):
        state = env.step(state, action)
        return state, state.replace(pipeline_state=None)

    return jax.lax.scan(step, state, actions)


def walk(num_envs, limit=5):
    return TrainingEnv(TimeLimit(Walk(), limit), num_envs, 1, limit)


def test_truncation_and_termination_by_hand():
    env = walk(2)
    state = jax.jit(env.reset)(keys(2))
    tags = state.obs[:, 0]
    actions = jnp.tile(jnp.array([[0.8], [0.5]]), (6, 1, 1))
    _, steps = jax.jit(rollout, static_argnums=0)(env, state, actions)
    # 0.8 reaches 3.2 in the fourth step and terminates; 0.5 is cut off by the limit after five steps.
    assert steps.done.T.tolist() == [[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    assert steps.info["truncation"].T.tolist() == [[0] * 6, [0, 0, 0, 0, 1, 0]]
    assert steps.info["steps"].T.tolist() == [[1, 2, 3, 0, 1, 2], [1, 2, 3, 4, 0, 1]]
    np.testing.assert_allclose(steps.reward.T, [[0.8] * 6, [0.5] * 6], rtol=1e-6)
    # Where an episode is done, the next one's first observation is there already.
    np.testing.assert_allclose(steps.obs[:, 0, 1], [0.8, 1.6, 2.4, 0, 0.8, 1.6], rtol=1e-6)
    np.testing.assert_allclose(steps.obs[:, 1, 1], [0.5, 1, 1.5, 2, 0, 0.5], rtol=1e-6)
    assert steps.obs[2, 0, 0] == tags[0]
    assert steps.obs[3, 0, 0] == steps.obs[4, 0, 0] != tags[0]
    so_far = steps.info["episode_metrics"]
    np.testing.assert_allclose(so_far["sum_reward"][:, 0], [0.8, 1.6, 2.4, 3.2, 0.8, 1.6], rtol=1e-6)
    assert so_far["length"][:, 1].tolist() == [1, 2, 3, 4, 5, 1]


def test_a_termination_at_the_limit_is_no_truncation():
    env = walk(1, limit=4)
    state, steps = rollout(env, env.reset(keys(1)), jnp.full((4, 1, 1), 0.8))
    assert (state.done.tolist(), steps.info["truncation"][:, 0].tolist()) == ([1], [0, 0, 0, 0])


def test_brax_may_set_how_long_episodes_have_been_running():
    env = walk(2)
    state = env.reset(keys(2))
    state = state.replace(info=state.info | {"steps": jnp.array([3.0, 0.0])})
    _, steps = rollout(env, state, jnp.full((2, 2, 1), 0.5))
    assert steps.done.tolist() == [[0, 0], [1, 0]]
    assert steps.info["truncation"].tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("num_envs", [1, 3])
def test_no_first_state_is_ever_used_twice(num_envs):
    env = walk(num_envs)
    state = jax.jit(env.reset)(keys(num_envs))
    actions = jax.random.uniform(jax.random.key(1), (500, num_envs, 1), maxval=0.89)
    _, steps = jax.jit(rollout, static_argnums=0)(env, state, actions)
    firsts = np.concatenate([np.asarray(state.obs), np.asarray(steps.obs)[np.asarray(steps.done) > 0]])[:, ::2]
    assert len(firsts) > 90 * num_envs
    assert len(np.unique(firsts, axis=0)) == len(firsts)


def test_broken_physics_cuts_the_episode_off():
    env = walk(1)
    _, steps = rollout(env, env.reset(keys(1)), jnp.array([0.5, 0.95, 0.5])[:, None, None])
    assert steps.done[:, 0].tolist() == [0, 1, 0]
    assert steps.info["truncation"][:, 0].tolist() == [0, 1, 0]
    np.testing.assert_allclose(steps.reward[:, 0], [0.5, 0, 0.5])
    assert jnp.isfinite(steps.obs).all()


def test_held_actions_count_every_env_step():
    config = EnvConfig("probe/reward", action_repeat=4, time_limit=8)
    env = TrainingEnv(make(config), 2, config.action_repeat, config.time_limit)
    assert (env.observation_size, env.action_size) == (1, 1)
    _, steps = rollout(env, jax.jit(env.reset)(keys(2)), jnp.zeros((3, 2, 1)))
    assert steps.done[:, 0].tolist() == [0, 1, 0]
    assert steps.reward[:, 0].tolist() == [4, 4, 4]
    assert steps.info["steps"][:, 0].tolist() == [4, 0, 4]


def test_the_state_keeps_its_shapes_and_types():
    env = walk(3)
    state = jax.eval_shape(env.reset, keys(3))
    after = jax.eval_shape(env.step, state, jnp.zeros((3, 1)))
    assert jax.tree.structure(state) == jax.tree.structure(after)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type), state, after)
    assert all(jax.tree.leaves(same))
