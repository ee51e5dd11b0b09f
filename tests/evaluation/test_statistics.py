"""Means and their intervals."""

import numpy as np
import pytest

from mbrl.core.errors import UserError
from mbrl.evaluation.statistics import bootstrap_interval, summarise


def test_mean_and_standard_deviation_by_hand():
    summary = summarise([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert (summary.mean, summary.std, summary.samples) == (5.0, 2.0, 8)
    assert 2.0 < summary.low < 5.0 < summary.high < 9.0


def test_equal_values_leave_no_doubt():
    assert summarise([3.0] * 5)[:4] == (3.0, 0.0, 3.0, 3.0)
    assert summarise(np.float32(7))[:4] == (7.0, 0.0, 7.0, 7.0)


def test_the_interval_approaches_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(10, 2, 400)
    half = 1.96 * values.std() / np.sqrt(400)
    low, high = bootstrap_interval(values)
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.04)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    intervals = [bootstrap_interval(generator.normal(size=50), 0.8, 400) for _ in range(200)]
    assert 0.70 < np.mean([low < 0 < high for low, high in intervals]) < 0.87


def test_the_interval_is_the_same_for_the_same_seed():
    values = np.arange(9.0)
    assert bootstrap_interval(values) == bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_no_value_is_an_error():
    with pytest.raises(UserError, match="0 values"):
        summarise([])
