"""The first episode of each environment, exactly, and recordings that show the resets."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.agents.base import ActOutput, Agent
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID, TimeStep
from mbrl.evaluation.rollout import make_evaluate, make_record


class Counting:
    """Environment n counts up to ``lengths[n]``; a step pays its number plus the action.

    The even environments terminate, the odd ones are truncated.
    """

    observation_spec = specs.Array((1,), np.float32)
    action_spec = specs.BoundedArray((1,), np.float32, -1.0, 1.0)

    def __init__(self, lengths):
        self.lengths = jnp.array(lengths)
        self.num_envs = len(lengths)

    def reset(self, key):
        del key
        return self._show(jnp.zeros(self.num_envs, jnp.int32), jnp.zeros(self.num_envs))

    def step(self, age, action):
        age = jnp.where(age == self.lengths, 0, age + 1)
        return self._show(age, jnp.where(age > 0, age + action[:, 0], 0.0))

    def _show(self, age, reward):
        over = age == self.lengths
        step_type = jnp.where(over, LAST, jnp.where(age == 0, FIRST, MID))
        terminated = over & (jnp.arange(self.num_envs) % 2 == 0)
        return age, TimeStep(step_type, reward, 1.0 - terminated, age[:, None].astype(jnp.float32))


def counting_agent(traces=None):
    """Act 0.5 in mode "eval", 0 in "train"; the carry counts the steps of all episodes."""

    def act(state, key, carry, timestep, mode):
        if traces is not None:
            traces.append(mode)
        del key
        action = jnp.full((len(timestep.reward), 1), 0.5 if mode == "eval" else 0.0) * state
        return ActOutput(action, carry + 1, carry)

    nothing = SimpleNamespace()
    return Agent(nothing, lambda n: jnp.zeros(n, jnp.int32), act, nothing, nothing, 0.9)


def test_each_environment_counts_its_first_episode_once():
    lengths = [1, 2, 5, 3]
    result = make_evaluate(counting_agent(), Counting(lengths), 4)(jnp.float32(1), jax.random.key(0))
    np.testing.assert_allclose(result.returns, [1.5, 4.0, 17.5, 7.5])
    np.testing.assert_array_equal(result.lengths, lengths)
    np.testing.assert_array_equal(result.terminated, [True, False, True, False])


def test_evaluation_compiles_once():
    traces = []
    evaluate = make_evaluate(counting_agent(traces), Counting([2, 3]), 2)
    for seed in range(3):
        evaluate(jnp.float32(seed), jax.random.key(seed))
    assert evaluate._cache_size() == 1
    assert set(traces) == {"eval"}


def test_the_number_of_episodes_is_that_of_the_environments():
    with pytest.raises(UserError, match="over 3 episodes was given 2 environments"):
        make_evaluate(counting_agent(), Counting([2, 3]), 3)


def test_a_recording_shows_resets_actions_and_contexts():
    env = Counting([2, 3])
    record = make_record(counting_agent(), env, 7, mode="train", probe=lambda age: {"age": age})
    sequence, probed = record(jnp.float32(1), jax.random.key(0))
    ages = np.array([[0, 1, 2, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1, 2]]).T
    np.testing.assert_array_equal(sequence.timestep.observation[..., 0], ages)
    np.testing.assert_array_equal(probed["age"], ages)
    np.testing.assert_array_equal(sequence.timestep.first(), ages == 0)
    np.testing.assert_array_equal(sequence.timestep.last(), ages == [2, 3])
    np.testing.assert_array_equal(sequence.timestep.reward, ages)
    np.testing.assert_array_equal(sequence.context, np.arange(7)[:, None].repeat(2, axis=1))
    assert sequence.action.shape == (7, 2, 1)


def test_a_recording_in_mode_eval_acts_so():
    sequence, probed = make_record(counting_agent(), Counting([4]), 3)(jnp.float32(1), jax.random.key(0))
    np.testing.assert_allclose(sequence.action, 0.5)
    np.testing.assert_allclose(sequence.timestep.reward[:, 0], [0, 1.5, 2.5])
    assert probed is None


def test_the_policy_draws_fresh_randomness_every_step():
    def act(state, key, carry, timestep, mode):
        del state, mode
        return ActOutput(jax.random.uniform(key, (len(timestep.reward), 1)), carry, ())

    agent = counting_agent()._replace(act=act)
    record = make_record(agent, Counting([4, 4]), 6)
    first, again, other = (np.asarray(record(0, jax.random.key(s)).sequence.action) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(np.concatenate([first, other]))) == 24
