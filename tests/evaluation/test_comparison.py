"""Interquartile means, profiles and probabilities of improvement, and how sure they are."""

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis.extra.numpy import arrays

from mbrl.core.errors import UserError
from mbrl.evaluation import comparison
from mbrl.evaluation.comparison import curve, estimate, estimate_improvement, improvement, interquartile_mean

SCORES = st.integers(1, 9).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-1e3, 1e3)))
STRATA = st.lists(SCORES, min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7], 7),
        ([1, 3], 2),
        ([0, 2, 10], (0.25 * 0 + 2 + 0.25 * 10) / 1.5),  # a quarter of 3 runs is 0.75 of a run
        ([100, 2, 4, -50], 3),
        ([1, 2, 3, 4, 100], (0.75 * 2 + 3 + 0.75 * 4) / 2.5),
        ([0, 1, 2, 3, 4, 60], (0.5 * 1 + 2 + 3 + 0.5 * 4) / 3),
    ],
)
def test_interquartile_mean_by_hand(scores, expected):
    np.testing.assert_allclose(interquartile_mean(np.array(scores)), expected)


@pytest.mark.parametrize("count", [4, 8, 20])
def test_interquartile_mean_is_the_trimmed_mean_where_a_quarter_is_whole(count):
    scores = np.random.default_rng(count).normal(size=(3, count))
    np.testing.assert_allclose(interquartile_mean(scores), scipy.stats.trim_mean(scores, 0.25, axis=1))


def test_profile_by_hand():
    strata = [np.array([0.1, 0.5, 0.9, 0.9]), np.array([0.5])]
    # Above 0: all. Above 0.5: half of the first task's runs, none of the second's. Above 0.9: none.
    np.testing.assert_allclose(comparison.performance_profile(strata, np.array([0, 0.5, 0.9])), [1, 0.25, 0])


def test_improvement_by_hand():
    x, y = [np.array([3, 5]), np.array([1.0])], [np.array([3, 4]), np.array([2.0])]
    # First task: 3 ties with 3 and loses to 4, 5 beats both: 2.5 of 4. Second task: 0 of 1.
    np.testing.assert_allclose(improvement(x, y), (2.5 / 4 + 0) / 2)


def test_improvement_is_mann_and_whitneys_u():
    x, y = np.random.default_rng(0).integers(0, 5, (2, 7))
    expected = scipy.stats.mannwhitneyu(x, y).statistic / 49
    np.testing.assert_allclose(improvement([x], [y]), expected)


@given(STRATA, st.integers(0, 99))
def test_what_holds_of_any_scores(strata, seed):
    together = np.concatenate(strata)
    middle = comparison.pooled_mean(strata)
    slack = 1e-9 * (1 + np.abs(together).max())
    assert together.min() - slack <= middle <= together.max() + slack
    shuffled = np.random.default_rng(seed).permutation(together)
    np.testing.assert_allclose(interquartile_mean(shuffled), middle)
    np.testing.assert_allclose(interquartile_mean(-together), -middle, atol=slack)
    taus = np.linspace(-1001, 1001, 9)
    profile = comparison.performance_profile(strata, taus)
    assert (profile[0], profile[-1]) == (1, 0)
    assert (np.diff(profile) <= 1e-12).all()
    assert improvement(strata, strata) == 0.5
    better = [scores + 2001 for scores in strata]
    assert improvement(better, strata) == 1


@given(STRATA, STRATA)
def test_one_of_two_is_better_or_they_tie(x, y):
    tasks = min(len(x), len(y))
    x, y = x[:tasks], y[:tasks]
    np.testing.assert_allclose(improvement(x, y) + improvement(y, x), 1)


@given(STRATA)
def test_resamples_are_drawn_within_each_task(strata):
    found = estimate(strata, lambda drawn: np.stack([scores.mean(-1) for scores in drawn], -1), resamples=50)
    single = min(len(scores) for scores in strata) < 2
    assert (found.low is None) == (found.high is None) == single
    for m, scores in enumerate(strata):
        if not single:
            slack = 1e-9 * (1 + np.abs(scores).max())
            assert scores.min() - slack <= found.low[m] <= found.high[m] <= scores.max() + slack


def test_every_resample_is_as_large_as_its_task():
    seen = []

    def watch(strata):
        seen.append([scores.shape for scores in strata])
        return comparison.pooled_mean(strata)

    estimate([np.arange(3.0), np.arange(5.0)], watch, resamples=7)
    assert seen == [[(3,), (5,)], [(7, 3), (7, 5)]]


def test_a_golden_interval():
    strata = [np.array([1.13, 4.51, 2.27, 8.9, 5.06]), np.array([10.4, 20.8, 15.3])]
    found = estimate(strata, comparison.pooled_mean)
    np.testing.assert_allclose(found, [7.2175, 4.8625, 9.955], rtol=1e-12)


def test_the_interval_is_the_same_for_the_same_seed():
    one, two, other = (estimate([np.arange(9.0)], comparison.pooled_mean, 0.95, 20, seed) for seed in (0, 0, 1))
    assert one == two != other


@pytest.mark.parametrize("runs", [[20], [10, 12]])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(runs):
    generator = np.random.default_rng(3)
    cases = ([generator.normal(size=n) for n in runs] for _ in range(200))
    found = [estimate(case, comparison.pooled_mean, resamples=500) for case in cases]
    assert 0.88 <= np.mean([one.low < 0 < one.high for one in found]) <= 0.99


def test_improvement_is_sure_where_all_runs_agree():
    x, y = [np.array([2.0, 3.0])], [np.array([0.0, 1.0])]
    assert estimate_improvement(x, y) == (1, 1, 1)
    assert estimate_improvement(y, x) == (0, 0, 0)
    assert estimate_improvement(x, [np.array([1.0])])[1:] == (None, None)


def test_a_curve_is_drawn_where_all_runs_have_data():
    one = np.array([10, 20, 30]), np.array([0.0, 10.0, 20.0])
    two = np.array([15, 25]), np.array([5.0, 5.0])
    found = curve([one, two])
    np.testing.assert_allclose(found.steps, [15, 20, 25])
    np.testing.assert_allclose(found.value, [5, 7.5, 10])  # the first run, interpolated: 5, 10, 15
    np.testing.assert_allclose(found.low, [5, 5, 5])
    np.testing.assert_allclose(found.high, [5, 10, 15])


def test_a_curve_of_one_run_is_that_run_and_of_runs_apart_nothing():
    found = curve([(np.array([1.0, 2.0]), np.array([3.0, 4.0]))])
    np.testing.assert_allclose([found.steps, found.value], [[1, 2], [3, 4]])
    assert found[2:] == (None, None)
    apart = curve([(np.ones(1), np.zeros(1)), (2 * np.ones(1), np.zeros(1))])
    assert [x.shape for x in apart] == [(0,)] * 4


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    steps = np.arange(1000.0)
    found = curve([(steps, steps), (steps, steps)], points=7)
    np.testing.assert_allclose(found.steps, found.value)
    assert (len(found.steps), found.steps[0], found.steps[-1]) == (7, 0, 999)


def test_scores_on_a_scale():
    np.testing.assert_allclose(comparison.normalise(np.array([5.0, 10.0, 25.0]), 5.0, 15.0), [0, 0.5, 2])
    np.testing.assert_allclose(comparison.normalise(np.array([5.0, 5.0]), 5.0, 5.0), [0, 0])


@pytest.mark.parametrize("strata", [[], [np.ones(2), np.ones(0)]])
def test_no_run_is_an_error(strata):
    with pytest.raises(UserError, match="0 runs"):
        estimate(strata, comparison.pooled_mean)
    with pytest.raises(UserError, match="0 scores"):
        interquartile_mean(np.ones(0))
