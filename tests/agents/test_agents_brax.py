"""Brax's agents as guests: their policy, their schedule, what they refuse. No training here."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.agents import AGENTS, Guest
from mbrl.agents.base import Course, leeway
from mbrl.agents.brax import APGConfig, PPOConfig, SACConfig, iteration, loops, make
from mbrl.agents.brax.config import _DEMANDS
from mbrl.core.errors import UserError
from mbrl.core.types import restart
from mbrl.envs import EnvConfig
from mbrl.envs import make as make_env

OBSERVATION = specs.Array((3,), np.float32)
ACTION = specs.BoundedArray((2,), np.float32, -1.0, 1.0)
SMALL = {
    "sac": SACConfig(hidden_layer_sizes=(8,), normalize_observations=True),
    "ppo": PPOConfig(policy_hidden_layer_sizes=(8,), value_hidden_layer_sizes=(8,), normalize_observations=True),
    "apg": APGConfig(hidden_layer_sizes=(8,), normalize_observations=True),
}
EIGHTY = PPOConfig(batch_size=8, num_minibatches=2, unroll_length=5)  # agent steps of a collection


def seen(values):
    timestep = restart(jnp.asarray(values, jnp.float32))
    n = len(values)
    return timestep._replace(step_type=jnp.zeros(n, jnp.int32), reward=jnp.zeros(n), discount=jnp.ones(n))


def course(**changes):
    return Course(8, 1, 10, 1000, 100, 0)._replace(**changes)


@pytest.mark.parametrize("name", SMALL)
def test_the_policy_acts_in_every_mode(name):
    agent = AGENTS[name].make(SMALL[name], OBSERVATION, ACTION)
    assert isinstance(agent, Guest)
    state = jax.jit(agent.init)(jax.random.key(0))
    moved = jax.tree.map(lambda x: x + 0.3, state.network)
    state = state._replace(network=moved)
    timestep = seen(np.linspace(-1, 1, 12).reshape(4, 3))
    act = lambda seed, mode: agent.act(state, jax.random.key(seed), agent.initial(4), timestep, mode).action
    for mode in ("train", "eval", "random"):
        assert act(0, mode).shape == (4, 2)
        assert jnp.abs(act(0, mode)).max() <= 1
    np.testing.assert_array_equal(act(0, "eval"), act(1, "eval"))
    assert not np.array_equal(act(0, "train"), act(1, "train"))
    assert not np.array_equal(act(0, "random"), act(1, "random"))


@pytest.mark.parametrize("name", SMALL)
def test_observations_are_normalised_only_where_that_is_asked_for(name):
    timestep = seen([[1.0, 2.0, 3.0]])
    moved = seen([[(1 - 5) / 2, (2 - 5) / 2, (3 - 5) / 2]])
    for asked in (True, False):
        agent = make(dataclasses.replace(SMALL[name], normalize_observations=asked), OBSERVATION, ACTION)
        plain = agent.init(jax.random.key(0))
        plain = plain._replace(network=jax.tree.map(lambda x: x + 0.3, plain.network))
        other = plain._replace(mean=jnp.full(3, 5.0), std=jnp.full(3, 2.0))
        act = lambda state, timestep, agent=agent: agent.act(state, jax.random.key(1), None, timestep, "eval").action
        np.testing.assert_allclose(act(other, timestep), act(plain, moved if asked else timestep), rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "asked", "told"),
    [
        # 8 environments: 100 env steps are 12 whole vector steps, and 1000 are 125, next to which come 14 times 9.
        (SACConfig(), course(), range(72, 1009, 72)),
        (SACConfig(), course(steps=960), range(96, 961, 96)),
        # The Brax notebook's hopper for a fraction of its steps: 93 vector steps, and no interval of 2,691.
        (SACConfig(min_replay_size=8192), course(num_envs=128, steps=20_000, every=344_448), range(20_096, 20_097, 1)),
        # 10 transitions take two vector steps, 16 env steps, before the first update.
        (SACConfig(min_replay_size=10), course(steps=200), range(112, 209, 96)),
        (SACConfig(), course(action_repeat=2, every=1, steps=33), range(16, 49, 16)),
        # 13 collections are not to be had by twos.
        (EIGHTY, course(every=200), range(80, 1041, 80)),
        (EIGHTY, course(every=200, steps=900), range(160, 961, 160)),
        (EIGHTY, course(steps=1), range(80, 81, 80)),
        # An update is 8 environments' 30 // 4 held actions.
        (APGConfig(horizon_length=30), course(action_repeat=4, every=500), range(224, 1121, 224)),
    ],
)
def test_the_schedule_by_hand(config, asked, told):
    env = make_env(EnvConfig("probe/action"))
    agent = make(config, env.observation_spec, env.action_spec)
    assert list(agent.prepare(env, asked).told) == list(told)


@pytest.mark.parametrize("every", [1, 100, 700, 3000, 10**9])
@pytest.mark.parametrize("config", [SACConfig(min_replay_size=10), PPOConfig(batch_size=8, num_minibatches=1)])
def test_no_training_ends_much_later_than_it_is_to(config, every):
    env = make_env(EnvConfig("probe/action"))
    agent = make(config, env.observation_spec, env.action_spec)
    each = iteration(config, 8, 1)
    for steps in (17, 1000, 2345, 10_007, 99_991, 2 * 10**9):
        told = agent.prepare(env, course(steps=steps, every=every)).told
        assert steps <= told[-1] <= steps + leeway(steps, each)
        assert told.step <= max(every, each)
        assert told.step % each == 0


@pytest.mark.parametrize(
    ("config", "asked", "message"),
    [
        (PPOConfig(), course(num_envs=7), r"batch_size 32 times .* 16 is 512, but must be a multiple of num_envs 7"),
        (SACConfig(min_replay_size=1000), course(), "takes 1000 env steps, which leaves none of steps 1000"),
        (SACConfig(max_replay_size=5), course(), "max_replay_size 5 must be at least .* num_envs 8"),
        (APGConfig(horizon_length=3), course(action_repeat=4), r"length 3 must be at least env\.action_repeat 4"),
        (SACConfig(), course(num_envs=0), "num_envs must be at least 1, not 0"),
    ],
)
def test_courses_that_do_not_go_together_are_refused(config, asked, message):
    env = make_env(EnvConfig("probe/action"))
    agent = make(config, env.observation_spec, env.action_spec)
    with pytest.raises(UserError, match=message):
        agent.prepare(env, asked)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SACConfig(learning_rate=float("nan")), r"agent\.learning_rate must be positive and finite, not nan"),
        (SACConfig(discounting=1.5), r"agent\.discounting must be above 0 and at most 1"),
        (SACConfig(min_replay_size=-1), r"agent\.min_replay_size must be at least 0"),
        (SACConfig(hidden_layer_sizes=()), r"agent\.hidden_layer_sizes must be one width or more"),
        (PPOConfig(batch_size=0), r"agent\.batch_size must be at least 1"),
        (PPOConfig(gae_lambda=-0.1), r"agent\.gae_lambda must be between 0 and 1"),
        (PPOConfig(max_grad_norm=0.0), r"agent\.max_grad_norm must be positive"),
        (APGConfig(adam_b=(0.9, 1.0)), r"agent\.adam_b must be two numbers"),
    ],
)
def test_numbers_out_of_range_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        make(config, OBSERVATION, ACTION)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (OBSERVATION, specs.DiscreteArray(4), "sac takes continuous actions, but .* is one of 4 choices"),
        ({"a": OBSERVATION}, ACTION, "sac takes one vector as observation, but this environment's is a dict"),
        (specs.Array((8, 8, 3), np.uint8), ACTION, r"an array of shape \(8, 8, 3\)"),
    ],
)
def test_tasks_it_cannot_take_are_refused(observation, action, message):
    with pytest.raises(UserError, match=message):
        make(SACConfig(), observation, action)


def test_every_number_of_a_config_is_checked_or_a_switch():
    for config in SMALL.values():
        for field in dataclasses.fields(config):
            kinds = "name", "normalize", "layer_norm", "use_schedule"
            assert field.name in _DEMANDS or any(kind in field.name for kind in kinds), field.name


def test_brax_and_jax_are_left_as_they_are():
    before = set(vars(jax))
    with loops.hushed():
        own = importlib.import_module("brax.training.agents.ppo.train")
        copy = loops._loop("brax.training.agents.ppo.train", lambda *_: None)
    assert copy.acting.Evaluator is not own.acting.Evaluator
    assert copy.jax.jit is jax.jit
    assert own.jax is jax
    assert set(vars(jax)) == before
