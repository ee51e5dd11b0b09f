"""What a handful of returns says, and how sure it is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real
from numpy.typing import ArrayLike

from mbrl.core.errors import UserError


class Summary(NamedTuple):
    """The mean of some numbers, with a bootstrap interval of that mean."""

    mean: float
    std: float  # of the numbers themselves (population)
    low: float
    high: float
    samples: int


def bootstrap_interval(
    values: Real[np.ndarray, "E"], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean (Efron 1979, "Bootstrap methods").

    Args:
        values: independent samples, at least one.
        confidence: share of the resampled means that lie inside, in (0, 1).
        resamples: how often E values are drawn with replacement.
        seed: the same seed gives the same interval.
    """
    generator = np.random.default_rng(seed)
    means: Float[np.ndarray, "R"] = generator.choice(values, (resamples, len(values))).mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def summarise(values: ArrayLike) -> Summary:
    """Return mean, standard deviation and the 95 % bootstrap interval of the mean of ``values`` ``[E]``.

    Raises:
        UserError: if there is no value.
    """
    samples = np.asarray(values, dtype=np.float64).ravel()
    if not samples.size:
        raise UserError("a summary was asked of 0 values; it needs at least 1")
    low, high = bootstrap_interval(samples)
    return Summary(float(samples.mean()), float(samples.std()), low, high, samples.size)
