import dataclasses

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.core import normalise
from mbrl.core.errors import UserError
from mbrl.core.normalise import PercentileConfig

CONFIG = PercentileConfig()
HUNDRED = jnp.arange(101.0)  # its percentile p is p


def test_before_the_first_batch_nothing_is_changed():
    chex.assert_trees_all_equal(normalise.scale(normalise.init(), CONFIG), (jnp.float32(0), jnp.float32(1)))


def test_the_first_batch_counts_fully():
    # low = .01·5, high = .01·95, correction = .01: offset .05/.01 = 5, scale .95/.01 - 5 = 90.
    state = normalise.update(normalise.init(), HUNDRED, CONFIG)
    np.testing.assert_allclose(state, [0.05, 0.95, 0.01], rtol=1e-6)
    np.testing.assert_allclose(normalise.scale(state, CONFIG), [5.0, 90.0], rtol=1e-5)


def test_two_batches_by_hand():
    # Percentiles 5, 95 and then 10, 190, weights .99·.01 = .0099 and .01, together .0199:
    # offset (.0099·5 + .01·10) / .0199 = .1495 / .0199; high (.0099·95 + .01·190) / .0199 = 2.8405 / .0199.
    state = normalise.update(normalise.init(), HUNDRED, CONFIG)
    state = normalise.update(state, 2 * HUNDRED, CONFIG)
    offset, high = 0.1495 / 0.0199, 2.8405 / 0.0199
    np.testing.assert_allclose(normalise.scale(state, CONFIG), [offset, high - offset], rtol=1e-5)


def test_small_returns_are_not_blown_up():
    # The 5th and 95th percentile of 0 … .1 lie .09 apart: below the limit.
    state = normalise.update(normalise.init(), HUNDRED / 1000, CONFIG)
    np.testing.assert_allclose(normalise.scale(state, CONFIG), [0.005, 1.0], rtol=1e-5)


def test_percentiles_ignore_outliers():
    returns = HUNDRED.at[-1].set(1e6)
    state = normalise.update(normalise.init(), returns, CONFIG)
    np.testing.assert_allclose(normalise.scale(state, CONFIG)[1], 90.0, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4)])
def test_against_numpy(shape):
    config = PercentileConfig(rate=0.1, low=20.0, high=70.0, limit=0.01)
    rng = np.random.default_rng(1)
    batches = rng.normal(size=(6, *shape)).astype(np.float32)
    weights = 0.1 * 0.9 ** np.arange(5, -1, -1)  # of each batch, the newest last
    low, high = (np.dot(weights, [np.percentile(x, q) for x in batches]) / weights.sum() for q in (20, 70))
    state = normalise.init()
    for batch in batches:
        state = normalise.update(state, jnp.asarray(batch), config)
    np.testing.assert_allclose(normalise.scale(state, config), [low, high - low], rtol=1e-4, atol=1e-5)


@hypothesis.settings(max_examples=25)
@hypothesis.given(shift=st.floats(-100, 100, width=32), factor=st.floats(0.5, 100, width=32), seed=st.integers(0, 99))
def test_normalised_returns_do_not_depend_on_the_reward_scale(shift, factor, seed):
    returns = np.random.default_rng(seed).normal(size=64) * 10

    def normalised(x):
        x = jnp.asarray(x, jnp.float32)
        offset, scale = normalise.scale(normalise.update(normalise.init(), x, CONFIG), CONFIG)
        return np.asarray((x - offset) / scale)

    np.testing.assert_allclose(normalised(returns * factor + shift), normalised(returns), rtol=1e-3, atol=1e-3)


def test_no_gradient_passes():
    def scale_of(returns):
        return normalise.scale(normalise.update(normalise.init(), returns, CONFIG), CONFIG)[1]

    np.testing.assert_array_equal(jax.grad(scale_of)(HUNDRED), np.zeros(101))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rate": 0.0}, "percentiles.rate must be above 0 and at most 1, not 0.0"),
        (
            {"low": 95.0},
            "percentiles.low must lie below percentiles.high, both between 0 and 100, not 95.0 and 95.0",
        ),
        (
            {"high": 101.0},
            "percentiles.low must lie below percentiles.high, both between 0 and 100, not 5.0 and 101.0",
        ),
        ({"limit": 0.0}, "percentiles.limit must be above 0, not 0.0"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        normalise.check(dataclasses.replace(CONFIG, **changes))
    assert str(error.value) == sentence
    normalise.check(CONFIG)


def test_compiles_once():
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(lambda state, x: normalise.update(state, x, CONFIG), n=1))
    state = normalise.init()
    for factor in (1.0, 2.0, 3.0):
        state = update(state, HUNDRED * factor)


def batches(seed, *shape):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(3.0, [0.5, 20.0], (*shape, 2)), jnp.float32)


def test_moments_of_nothing_change_nothing():
    state = normalise.init_moments(2)
    np.testing.assert_array_equal(state.mean, [0, 0])
    np.testing.assert_array_equal(normalise.deviation(state), [1, 1])
    # Nor does a batch in which nothing counts.
    after = normalise.update_moments(state, batches(0, 4, 3), jnp.zeros((4, 3)), 0.1)
    chex.assert_trees_all_equal(after, state)


def test_moments_by_hand():
    # Batch 1: 1, 3 (and a 100 that does not count): mean 2, variance 1. Batch 2: 6, 6, 6: mean 6, variance 0.
    mask = jnp.array([1.0, 1.0, 0.0])
    state = normalise.update_moments(normalise.init_moments(1), jnp.array([[1.0], [3.0], [100.0]]), mask, 0.0)
    np.testing.assert_allclose(jnp.concatenate(state[:2]), [2, 1], rtol=1e-6)
    # Half and half: mean 4, variance ½ · 1 + ½ · 0 + ¼ · 4².
    half = normalise.update_moments(state, jnp.full((3, 1), 6.0), jnp.ones(3), 0.0)
    np.testing.assert_allclose([half.mean[0], half.variance[0], half.batches], [4, 4.5, 2], rtol=1e-6)
    # At a rate of .9: mean .1 · 2 + .9 · 6, variance .1 · 1 + .09 · 4².
    fast = normalise.update_moments(state, jnp.full((3, 1), 6.0), jnp.ones(3), 0.9)
    np.testing.assert_allclose([fast.mean[0], fast.variance[0]], [5.6, 0.1 + 0.09 * 16], rtol=1e-5)


@pytest.mark.parametrize("count", [1, 5])
def test_moments_are_those_of_all_batches(count):
    state, seen = normalise.init_moments(2), [batches(seed, 7, 3) for seed in range(count)]
    for batch in seen:
        state = normalise.update_moments(state, batch, jnp.ones((7, 3)), 0.0)
    together = np.concatenate([np.asarray(batch, np.float64).reshape((-1, 2)) for batch in seen])
    np.testing.assert_allclose(state.mean, together.mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalise.deviation(state), together.std(0), rtol=1e-4)


def test_what_is_constant_keeps_its_units():
    state = normalise.update_moments(normalise.init_moments(2), jnp.array([[7.0, 1.0], [7.0, 2.0]]), jnp.ones(2), 0.0)
    np.testing.assert_allclose(normalise.deviation(state), [1.0, 0.5], rtol=1e-6)
    # As does what varies by the rounding of a large number alone.
    rounded = state._replace(mean=jnp.array([3e4, 3.0]), variance=jnp.array([4e-6, 4e-6]))
    np.testing.assert_allclose(normalise.deviation(rounded), [1.0, 2e-3], rtol=1e-6)


def test_whitening_by_hand():
    state = normalise.Moments(jnp.array([1.0, 7.0]), jnp.array([4.0, 0.0]), jnp.float32(1))  # the second is constant
    x = jnp.array([[[5.0, 8.0]], [[1.0, 7.0]]])
    np.testing.assert_allclose(normalise.whiten(state, x), [[[2.0, 1.0]], [[0.0, 0.0]]])
    assert [part.shape for part in normalise.whitening(state, 3)] == [(1, 1, 2)] * 2
    slopes = jax.grad(lambda mean: normalise.whiten(state._replace(mean=mean), x).sum())(state.mean)
    np.testing.assert_array_equal(slopes, [0.0, 0.0])


def test_no_gradient_passes_through_moments():
    moved = lambda x: sum(
        part.sum() for part in normalise.update_moments(normalise.init_moments(2), x, jnp.ones(4), 0.1)
    )
    np.testing.assert_array_equal(jax.grad(moved)(batches(0, 4)), np.zeros((4, 2)))
