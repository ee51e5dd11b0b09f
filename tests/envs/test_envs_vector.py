"""Automatic reset: fresh first states, kept terminal observations, counted faults, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import Walk

from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID
from mbrl.envs import TimeLimit, VectorEnv, VectorEnvironment


def rollout(env, state, actions):
    return jax.lax.scan(env.step, state, actions)


def test_it_is_a_vector_environment():
    assert isinstance(VectorEnv(Walk(), 2), VectorEnvironment)


@pytest.mark.parametrize(("num_envs", "pool"), [(1, 1), (3, 3), (4, 7), (8, None)])
def test_no_first_state_is_ever_used_twice(num_envs, pool):
    env = VectorEnv(TimeLimit(Walk(), 5), num_envs, pool)
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    # Episodes of unequal length, so that the pool is used up at odd places.
    actions = jax.random.uniform(jax.random.key(1), (600, num_envs, 1), maxval=0.89)
    _, steps = jax.jit(rollout, static_argnums=0)(env, state, actions)
    firsts = np.asarray(steps.observation)[np.asarray(steps.first())]
    tags = np.concatenate([np.asarray(timestep.observation), firsts])[:, ::2]
    assert len(tags) > 100 * num_envs
    assert len(np.unique(tags, axis=0)) == len(tags)


def test_the_order_is_last_then_first_and_the_terminal_observation_is_kept():
    env = VectorEnv(TimeLimit(Walk(), 5), 2)
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    tag = timestep.observation[:, 0]
    actions = jnp.tile(jnp.array([[0.8], [0.5]]), (7, 1, 1))
    _, steps = jax.jit(rollout, static_argnums=0)(env, state, actions)
    # 0.8 reaches 3.2 in the fourth step and terminates; 0.5 is cut by the limit after five steps.
    assert steps.step_type.T.tolist() == [[MID, MID, MID, LAST, FIRST, MID, MID], [MID] * 4 + [LAST, FIRST, MID]]
    np.testing.assert_allclose(steps.discount.T, [[1, 1, 1, 0, 1, 1, 1], [1] * 7])
    np.testing.assert_allclose(steps.reward.T, [[0.8] * 4 + [0, 0.8, 0.8], [0.5] * 5 + [0, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(steps.observation[3, 0, :2], [tag[0], 3.2], rtol=1e-6)
    np.testing.assert_allclose(steps.observation[4, 1, :2], [tag[1], 2.5], rtol=1e-6)
    np.testing.assert_allclose([steps.observation[4, 0, 1], steps.observation[5, 1, 1]], 0)
    assert steps.observation[4, 0, 0] != tag[0]


def test_broken_physics_is_cut_counted_and_started_over():
    env = VectorEnv(Walk(), 2)
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    actions = jnp.array([[0.5, 0.25], [0.95, 0.475], [0.95, 0.475], [0.5, 0.25]])[..., None]
    state, steps = jax.jit(rollout, static_argnums=0)(env, state, actions)
    # The second break falls on the automatic reset, which ignores its action.
    assert steps.step_type[:, 0].tolist() == [MID, LAST, FIRST, MID]
    np.testing.assert_allclose(steps.observation[1, 0, :2], [timestep.observation[0, 0], 0.5], rtol=1e-6)
    assert (steps.reward[1, 0], steps.discount[1, 0]) == (0, 1)
    assert state.faults == 1
    assert jnp.isfinite(steps.observation).all()
    np.testing.assert_allclose(steps.reward[:, 1], [0.25, 0.475, 0.475, 0.25])


def test_the_same_seed_gives_the_same_numbers():
    env = VectorEnv(TimeLimit(Walk(), 3), 2, pool=2)
    actions = jax.random.uniform(jax.random.key(1), (20, 2, 1))

    def run(seed):
        state, _ = env.reset(jax.random.key(seed))
        return rollout(env, state, actions)[1].observation

    one, again, other = (jax.jit(run)(seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_many_seeds_at_once_are_each_what_they_are_alone():
    env = VectorEnv(TimeLimit(Walk(), 3), 2, pool=3)
    actions = jax.random.uniform(jax.random.key(1), (30, 2, 1))

    def run(key):
        state, _ = env.reset(key)
        return rollout(env, state, actions)

    keys = jax.random.split(jax.random.key(0), 3)
    states, steps = jax.jit(jax.vmap(run))(keys)
    for i, key in enumerate(keys):
        alone_state, alone = jax.jit(run)(key)
        jax.tree.map(lambda many, one, i=i: np.testing.assert_array_equal(many[i], one), steps, alone)
        assert states.used[i] == alone_state.used
        assert states.faults[i] == alone_state.faults > 0


def test_a_jitted_state_can_be_donated_and_steps_compile_once():
    env = VectorEnv(TimeLimit(Walk(), 3), 2)
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    leaves = [leaf for leaf in jax.tree.leaves((state, timestep)) if leaf.dtype != state.key.dtype]
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    step = jax.jit(env.step, donate_argnums=0)
    for _ in range(5):
        state, timestep = step(state, jnp.full((2, 1), 0.1))
    assert step._cache_size() == 1
    dtypes = (timestep.step_type.dtype, timestep.reward.dtype, timestep.discount.dtype)
    assert dtypes == (jnp.int32, jnp.float32, jnp.float32)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, timestep)) if leaf.dtype != state.key.dtype)


@pytest.mark.parametrize(("arguments", "sentence"), [((0,), "num_envs is 0"), ((4, 3), "first states is 3")])
def test_impossible_sizes_are_told(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        VectorEnv(Walk(), *arguments)
