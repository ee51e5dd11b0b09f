"""Every probe's optimal and random return, as its docstring has it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID
from mbrl.envs import ENVS
from mbrl.envs.probes import Cue, Delayed, ProbeState, Sight, Tasks, Terminal
from mbrl.envs.probes_moving import Goal, Joints

KEY = jax.random.key(0)
PROBES = sorted(name for name in ENVS if name.startswith("probe/"))


def play(env, policy, key):
    """Return one episode's time steps [length + 1, ...] and whether each was reached."""
    key, reset_key = jax.random.split(key)
    state, start = env.reset(reset_key)

    def step(carry, key):
        state, alive = carry
        state, timestep = env.step(state, policy(state, key))
        return (state, alive & ~timestep.last()), (timestep, alive)

    _, (steps, alive) = jax.lax.scan(step, (state, jnp.bool_(True)), jax.random.split(key, env.length))
    join = lambda first, rest: jnp.concatenate([first[None], rest])
    return jax.tree.map(join, start, steps), join(jnp.bool_(True), alive)


def best(env, state, key):
    del key
    return env.best(state)


def uniform(env, state, key):
    del state
    if isinstance(env.action_spec, specs.DiscreteArray):
        return jax.random.randint(key, (), 0, env.action_spec.num_values)
    return jax.random.uniform(key, env.action_spec.shape, minval=-1)


def episodes(env, policy, number):
    keys = jax.random.split(jax.random.key(0), number)
    return jax.jit(jax.vmap(lambda key: play(env, policy, key)))(keys)


def returns(env, policy, number):
    steps, alive = episodes(env, policy, number)
    return np.asarray((steps.reward * alive).sum(axis=1))


@pytest.mark.parametrize("name", PROBES)
def test_the_best_policy_earns_the_optimal_return_and_is_terminated(name):
    env = ENVS[name]()
    steps, alive = episodes(env, functools.partial(best, env), 64)
    np.testing.assert_allclose(steps.reward.sum(axis=1), env.optimal_return, rtol=1e-5)
    assert alive.all()
    assert steps.step_type[0].tolist() == [FIRST, *[MID] * (env.length - 1), LAST]
    assert steps.discount[0].tolist() == [1] * env.length + [0]
    if name != "probe/sight":
        times = np.arange(env.length + 1) / env.length
        told = steps.observation["time"] if name == "probe/tasks" else steps.observation
        np.testing.assert_allclose(told[0, :, -1], times, rtol=1e-6)
    jax.tree.map(lambda spec, seen: spec.validate(np.asarray(seen[0, 0])), env.observation_spec, steps.observation)


@pytest.mark.parametrize("name", PROBES)
def test_random_actions_earn_the_random_return(name):
    env = ENVS[name]()
    earned = returns(env, functools.partial(uniform, env), 4096)
    assert abs(earned.mean() - env.random_return) <= 4 * earned.std() / 64
    assert env.length <= 20


def test_a_cue_is_seen_once_and_nothing_else_tells_it():
    env = Cue()
    seen = episodes(env, functools.partial(best, env), 16)[0].observation
    assert set(seen[:, 0, 0].tolist()) == {-1.0, 1.0}
    np.testing.assert_array_equal(seen[:, 1:], np.broadcast_to(seen[:1, 1:], seen[:, 1:].shape))
    np.testing.assert_array_equal(seen[0, 1:, 0], np.zeros(8))


def test_only_its_number_tells_a_task():
    env = Tasks()
    steps, _ = episodes(env, functools.partial(best, env), 64)
    task = np.asarray(steps.observation["task"])
    assert set(task[:, 0]) == {0, 1, 2, 3}
    assert (task == task[:, :1]).all()
    always, _ = episodes(env, lambda *_: jnp.ones(1), 64)
    np.testing.assert_array_equal(always.reward[:, 1], np.array([1, -1, -1, 1])[task[:, 0]])


def test_without_memory_a_cue_is_worth_one():
    env = Cue()
    steps, _ = episodes(env, lambda state, _: env.look(state), 16)
    np.testing.assert_array_equal(steps.reward.sum(axis=1), 1.0)


@pytest.mark.parametrize("delay", [1, 5])
def test_a_delayed_reward_comes_exactly_delay_steps_after_the_action(delay):
    env = Delayed(delay)

    def first_action_only(state, key):
        del key
        return jnp.where(state.time == 0, 0.5, -1.0) * env.best(state)

    steps, _ = episodes(env, first_action_only, 2)
    np.testing.assert_allclose(steps.reward, np.broadcast_to([0.0] * delay + [0.5], (2, delay + 1)))


def test_a_delay_below_one_is_told():
    with pytest.raises(UserError, match="is 0, but must be at least 1"):
        Delayed(0)


def test_taking_at_once_earns_one_and_waiting_for_ever_five():
    env = Terminal()
    assert returns(env, lambda *_: jnp.ones(1), 1) == 1
    assert returns(env, lambda *_: -jnp.ones(1), 1) == 5


def test_the_sight_probe_shows_bars_that_no_single_pixel_tells_apart():
    env, zero = Sight(), jnp.float32(0)
    show = lambda context: np.asarray(env.observe(ProbeState(jnp.int32(0), jnp.float32(context), zero, KEY)))[..., 0]
    lying, standing = (np.stack([show(sign * line) for line in (1, 2)]) for sign in (1, -1))
    assert np.argwhere(lying[0]).tolist() == [[3, 3], [3, 4]]
    assert np.argwhere(standing[1]).tolist() == [[3, 4], [4, 4]]
    np.testing.assert_array_equal(lying.sum(0), standing.sum(0))
    assert lying.sum(0).max() == 1
    np.testing.assert_array_equal(env.best(ProbeState(jnp.int32(0), jnp.float32(-2), zero, KEY)), [-1])
    drawn = jax.vmap(env.draw)(jax.random.split(KEY, 200))
    assert sorted(set(np.asarray(drawn).tolist())) == [-2, -1, 1, 2]


def test_a_goal_pays_at_the_end_alone_and_only_who_stands_there():
    env = Goal()
    overshoot = lambda state, _: jnp.sign(state.context)[None]
    assert returns(env, overshoot, 8).sum() == 0
    steps, _ = episodes(env, functools.partial(best, env), 8)
    assert steps.reward[:, :-1].sum() == 0
    np.testing.assert_allclose(steps.observation[:, 5:, 1], np.repeat(steps.observation[:, :1, 0], 11, 1), atol=1e-6)
    # Fifteen steps of .05 in the right direction are .75: beyond .65. Of .04 they are .6: within.
    assert returns(env, lambda state, _: 1.0 * state.context[None], 8).sum() == 0
    assert returns(env, lambda state, _: 0.8 * state.context[None], 8).sum() == 8


def test_joints_by_hand():
    env = Joints()
    still = returns(env, lambda *_: jnp.zeros(16), 4)
    np.testing.assert_allclose(still, 10 * (1 - 2 * 0.75**2), rtol=1e-5)
    first = lambda state, _: env.best(state).at[1:].set(0.0)  # one of sixteen comes to 0
    mean = lambda x: (x**2 + 15 * 0.75**2) / 16
    expected = 10 - 2 * (mean(0.45) + mean(0.15) + 8 * mean(0))
    np.testing.assert_allclose(returns(env, first, 4), expected, rtol=1e-5)
