"""What a world model is judged by, worked by hand on small recordings."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.agents.base import Agent, Diagnosis
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID, Sequence, TimeStep
from mbrl.evaluation import model as judge

NAMES = {"F": FIRST, "M": MID, "L": LAST}


def recording(kinds, observation=None, reward=None, discount=None):
    """Make a recording [T, 1] of step types written as letters."""
    step_type = np.array([[NAMES[k]] for k in kinds])
    T = len(kinds)
    column = lambda x, default: np.asarray(default if x is None else x, np.float32).reshape(T, 1)
    observation = np.arange(T, dtype=np.float32).reshape(T, 1, 1) if observation is None else observation
    timestep = TimeStep(step_type, column(reward, np.zeros(T)), column(discount, np.ones(T)), observation)
    return Sequence(timestep, np.zeros((T, 1, 1), np.float32), ())


def perfect(sequence, value=0.0):
    """Predict everything as it came, and every return as ``value``."""
    observation, one = {"state": sequence.timestep.observation}, np.full_like(sequence.timestep.reward, value)
    reward, discount = sequence.timestep.reward, sequence.timestep.discount
    return Diagnosis(observation, reward, discount, one, one, observation, reward, discount)


def test_windows_count_until_an_episode_begins():
    first = np.array([list("FMMMMMFM"), list("MMFMMMMM")]).T == "F"
    ahead = judge.until_border(first, 2, 4)
    # windows: time 0-3 of both environments, then time 4-7 of both
    np.testing.assert_array_equal(ahead, [[True, False, False, True], [True, False, False, True]])


def test_open_loop_error_by_hand():
    truth = np.array([0.0, 2.0, 4.0, 6.0], np.float32).reshape(4, 1, 1)  # the last two count: std = 1
    predicted = np.array([0.0, 2.0, 4.5, 3.0], np.float32).reshape(4, 1, 1)
    result = judge.open_loop_error(truth, predicted, np.ones((2, 1), bool), 2)
    np.testing.assert_allclose(result.model, [0.5, 3.0], rtol=1e-6)
    np.testing.assert_allclose(result.copy, [2.0, 4.0], rtol=1e-6)
    np.testing.assert_array_equal(result.windows, [1, 1])


def test_a_constant_dimension_is_measured_in_its_own_units():
    truth = np.full((3, 1, 1), 7.0, np.float32)
    result = judge.open_loop_error(truth, truth + 2, np.ones((2, 1), bool), 1)
    np.testing.assert_allclose(result.model, 2)
    np.testing.assert_allclose(result.copy, 0)


@pytest.mark.parametrize(("T", "N", "D"), [*itertools.product((8, 12), (1, 3), ((), (2,), (2, 2)))])
def test_a_perfect_model_errs_nowhere_and_a_copy_is_the_baseline(T, N, D):
    context, length = 1, 4
    truth = np.random.default_rng(T + N).normal(size=(T, N, *D)).astype(np.float32)
    copied = truth.reshape(-1, length, N, *D).copy()
    copied[:, context:] = copied[:, context - 1 : context]
    ahead = np.ones((length - context, T // length * N), bool)
    np.testing.assert_array_equal(judge.open_loop_error(truth, truth, ahead, context).model, 0)
    result = judge.open_loop_error(truth, copied.reshape(truth.shape), ahead, context)
    np.testing.assert_allclose(result.model, result.copy)
    assert (result.copy > 0).all()


def test_steps_behind_a_border_do_not_count():
    sequence = recording("FMMLFMMM", np.array([0, 1, 2, 3, 90, 1, 2, 3], np.float32).reshape(8, 1, 1))
    wrong = perfect(sequence)
    wrong.open_loop_observation["state"] = sequence.timestep.observation + np.array(
        [0, 0, 0, 0, 7, 7, 7, 7], np.float32
    ).reshape(8, 1, 1)
    result = judge.assess(sequence, wrong, 0.9, 2, 6).open_loop["state"]
    np.testing.assert_array_equal(result.windows, [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(result.model, [0, 0] + [np.nan] * 4)


def test_the_typical_window_is_the_median_of_the_longest():
    ahead = np.ones((2, 8), bool)
    ahead[1, 5:] = False  # shorter, so not to be shown
    truth = np.random.default_rng(0).normal(size=(16, 2, 1)).astype(np.float32)
    wrong = np.array([0, 4, 2, 1, 3, 9, 9, 9], np.float32)  # by window: time, then environment
    predicted = truth + np.repeat(wrong.reshape(4, 2, 1), 4, axis=0)
    assert judge.typical_window(truth, predicted, ahead, 2) == (4, 0, 2)
    assert judge.typical_window(truth, predicted, np.zeros((2, 8), bool), 2)[2] == 0


def test_calibration_bins_by_hand():
    predicted, true = np.array([0.1, 0.3, 0.8, 0.9]), np.array([0.0, 1.0, 1.0, 1.0])
    result = judge.calibrate(predicted, true, np.array([0, 0.5, 0.6, 1.0]))
    np.testing.assert_allclose(result.predicted, [0.2, 0.85])
    np.testing.assert_allclose(result.true, [0.5, 1.0])
    np.testing.assert_array_equal(result.samples, [2, 2])
    assert result.mse == pytest.approx((0.01 + 0.49 + 0.04 + 0.01) / 4)
    assert result.error == pytest.approx((0.3 + 0.15) / 2)


def test_bins_by_default_hold_equally_many_samples():
    predicted = np.random.default_rng(0).exponential(size=1000)
    result = judge.calibrate(predicted, predicted)
    np.testing.assert_allclose(result.samples, 100, atol=1)
    assert result.mse == result.error == 0


@pytest.mark.parametrize("predicted", [np.zeros(0), np.full(5, 2.0)])
def test_calibration_of_nothing_and_of_a_constant(predicted):
    result = judge.calibrate(predicted, predicted)
    np.testing.assert_array_equal(result.samples, [5] if predicted.size else [])
    assert np.isnan(result.mse) == (predicted.size == 0)


def test_real_returns_of_a_termination_by_hand():
    sequence = recording("FMLFM", reward=[0, 1, 2, 0, 4], discount=[1, 1, 0, 1, 1])
    value = np.full((5, 1), 10.0, np.float32)
    total, share = judge.real_return(
        sequence.timestep.reward, sequence.timestep.discount, sequence.timestep.step_type == LAST, value, 0.5
    )
    np.testing.assert_allclose(total[:, 0], [1 + 0.5 * 2, 2, 10, 4 + 0.5 * 10, 10])
    np.testing.assert_allclose(share[:, 0], [0, 0, 1, 0.5, 1])


def test_real_returns_of_a_truncation_ask_the_critic():
    sequence = recording("FML", reward=[0, 1, 2])
    total, share = judge.real_return(
        sequence.timestep.reward,
        sequence.timestep.discount,
        sequence.timestep.step_type == LAST,
        np.array([[0], [0], [8]], np.float32),
        0.5,
    )
    np.testing.assert_allclose(total[:, 0], [1 + 0.5 * (2 + 0.5 * 8), 2 + 0.5 * 8, 8])
    np.testing.assert_allclose(share[:, 0], [0.25, 0.5, 1])


def test_an_optimistic_model_has_a_bias_above_zero():
    sequence = recording("FMMLFMML", reward=[0, 1, 1, 1, 0, 3, 1, 1], discount=[1, 1, 1, 0, 1, 1, 1, 0])
    real = np.array([2.71, 1.9, 1, 4.71, 1.9, 1])
    predicted = np.array([2.71, 1.9, 1, 0, 4.71, 1.9, 1, 0], np.float32)[:, None]
    diagnosis = perfect(sequence)._replace(imagined_return=predicted + 2, value=-predicted)
    result = judge.return_gap(sequence, diagnosis, 0.9)
    np.testing.assert_allclose(result.real, real, rtol=1e-6)
    np.testing.assert_array_equal(result.share, 0)
    assert result.imagined_gap.bias == pytest.approx(2)
    assert result.imagined_gap.correlation == pytest.approx(1)
    assert result.value_gap.correlation == pytest.approx(-1)
    assert result.value_gap.bias == pytest.approx(-2 * real.mean())


def test_an_episode_that_never_ends_leaves_no_real_return():
    result = judge.return_gap(recording("FMMM"), perfect(recording("FMMM")), 0.999)
    assert result.real.size == 0
    assert np.isnan(result.imagined_gap).all()


def test_the_assessment_leaves_first_steps_out_of_the_calibration():
    sequence = recording("FMMLFMML", reward=[0, 1, 1, 1, 0, 1, 1, 1], discount=[1, 1, 1, 0, 1, 1, 1, 0])
    result = judge.assess(sequence, perfect(sequence), 0.9, 2, 2)
    assert result.reward.samples.sum() == result.discount.samples.sum() == 6
    assert result.reward_ahead.samples.sum() == 4
    np.testing.assert_allclose(result.discount.predicted, [0, 1])
    np.testing.assert_allclose(result.discount.true, [0, 1])
    np.testing.assert_array_equal(result.open_loop_reward.model, 0)


@pytest.mark.parametrize("windows", [(3, 4), (0, 8)])
def test_windows_that_do_not_fit_are_an_error(windows):
    sequence = recording("FMMMMMMM")
    with pytest.raises(UserError, match="8 steps cannot be cut"):
        judge.assess(sequence, perfect(sequence), 0.9, *windows)


def test_diagnosis_goes_window_by_window_and_compiles_once():
    def diagnose(state, key, sequence, context):
        assert context == 1
        assert sequence.action.shape == (3, 2, 1)
        total = jnp.cumsum(sequence.timestep.reward, axis=0) * state
        noise = jnp.broadcast_to(jax.random.uniform(key), total.shape)
        return Diagnosis({}, total, noise, total, total, {}, total, total)

    agent = Agent(None, None, None, None, diagnose, 0.9)
    ones = jnp.ones((6, 2))
    sequence = Sequence(TimeStep(ones.astype(int), ones, ones, ones[..., None]), ones[..., None], {"deter": ones})
    run = judge.make_diagnose(agent, 1, 2)
    result = [run(jnp.float32(scale), jax.random.key(0), sequence) for scale in (1, 2)][1]
    np.testing.assert_array_equal(result.reward, 2 * np.array([[1, 2, 3, 1, 2, 3]] * 2).T)
    assert len(np.unique(result.discount)) == 2
    assert run._cache_size() == 1
