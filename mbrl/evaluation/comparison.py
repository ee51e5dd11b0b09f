"""Agents compared over a handful of runs: point estimates and how sure they are.

The definitions are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv:2108.13264), section 4. Symbols: M tasks, N_m runs (seeds) of an agent on task m, x_{m,n} a run's score, R
resamples. The scores of an agent are its strata: one array ``[*R, N_m]`` for each task, so every statistic here says
the same of the runs themselves (no leading axis) and of all of their resamples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Real

from mbrl.core.errors import UserError

Strata: TypeAlias = Sequence[Real[np.ndarray, "..."]]  # [*R, N_m] for each task m
# Of a run: ascending env steps and scores, [T] each.
Evaluations: TypeAlias = tuple[Real[np.ndarray, "..."], Real[np.ndarray, "..."]]
Statistic: TypeAlias = Callable[[Strata], Float[np.ndarray, "..."]]  # of strata, [*R, *S]


class Estimate(NamedTuple):
    """A statistic of some runs, with the interval of its stratified bootstrap."""

    value: Float[np.ndarray, "*S"]
    low: Float[np.ndarray, "*S"] | None  # None where a task has a single run, of which nothing can be redrawn
    high: Float[np.ndarray, "*S"] | None


def interquartile_mean(scores: Real[np.ndarray, "*R N"]) -> Float[np.ndarray, "*R"]:
    """Return the mean of the middle half of the scores along the last axis.

        IQM = 2/N sum_i w_i x_(i),   w_i = |[i - 1, i] intersected with [N/4, 3N/4]|,   x_(1) <= ... <= x_(N)

    The scores at the quartiles count by the fraction of them that lies inside, so a quarter is cut off at either end
    whatever N is. Where N is a multiple of 4 this is ``scipy.stats.trim_mean(scores, 0.25)``, which the paper's own
    library takes; for other N that one cuts floor(N/4) scores at either end (of 3 scores, none).

    Raises:
        UserError: there is no score.
    """
    count = scores.shape[-1]
    if not count:
        raise UserError("an interquartile mean was asked of 0 scores; it needs at least 1")
    upper = np.arange(1, count + 1)
    weights = np.clip(np.minimum(upper, 3 * count / 4) - np.maximum(upper - 1, count / 4), 0, 1)
    return np.asarray(np.sort(scores.astype(np.float64), axis=-1) @ (weights / weights.sum()))


def pooled_mean(strata: Strata) -> Float[np.ndarray, "..."]:
    """Return the interquartile mean of all tasks' runs taken together (section 4.3)."""
    return interquartile_mean(np.concatenate(strata, axis=-1))


def performance_profile(strata: Strata, taus: Real[np.ndarray, "K"]) -> Float[np.ndarray, "... K"]:
    """Return the share of runs whose score is above each tau (the run-score distribution of section 4.2).

        F(tau) = 1/M sum_m 1/N_m sum_n [x_{m,n} > tau]
    """
    shares = [(scores[..., None] > taus).mean(axis=-2) for scores in strata]
    return np.asarray(np.mean(shares, axis=0))


def improvement(x: Strata, y: Strata) -> Float[np.ndarray, "..."]:
    """Return the probability that a run of X is better than one of Y on a task drawn at random (section 4.3).

        P(X > Y) = 1/M sum_m 1/(N_m K_m) sum_{n,k} s(x_{m,n}, y_{m,k}),   s = 1, 1/2, 0 for x >, =, < y

    which is, task by task, Mann and Whitney's U over its largest value. Both have the same tasks, in the same order.
    """
    pairs = ((a[..., :, None], b[..., None, :]) for a, b in zip(x, y, strict=True))
    won = [((a > b) + 0.5 * (a == b)).mean(axis=(-2, -1)) for a, b in pairs]
    return np.asarray(np.mean(won, axis=0))


def estimate(
    strata: Strata, statistic: Statistic, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Return a statistic with its percentile interval under the stratified bootstrap (section 4.1; Efron 1979).

    In every resample N_m runs of each task m are drawn with replacement from that task's own; the interval holds the
    middle ``confidence`` of the statistic over the resamples, each of its components by itself (pointwise).

    Args:
        strata: ``[N_m]`` for each task.
        statistic: of strata ``[*R, N_m]`` the numbers ``[*R, *S]``.
        confidence: in (0, 1).
        resamples: R.
        seed: the same seed gives the same interval.

    Raises:
        UserError: a task without a run.
    """
    if not strata or not all(len(scores) for scores in strata):
        raise UserError("an interval was asked of a task with 0 runs; it needs at least 1")
    value = np.asarray(statistic(strata), np.float64)
    if min(len(scores) for scores in strata) < 2:
        return Estimate(value, None, None)
    drawn = [scores[rows] for scores, rows in zip(strata, _draw(strata, resamples, seed), strict=True)]
    low, high = np.quantile(statistic(drawn), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Estimate(value, np.asarray(low), np.asarray(high))


def _draw(strata: Strata, resamples: int, seed: int) -> list[Int[np.ndarray, "R N"]]:
    """Return which runs each resample takes, task by task."""
    generator = np.random.default_rng(seed)
    return [generator.integers(len(scores), size=(resamples, len(scores))) for scores in strata]


def estimate_improvement(x: Strata, y: Strata) -> Estimate:
    """Return the probability of improvement of X over Y with its interval; the runs of both are redrawn."""
    return estimate([*x, *y], lambda strata: improvement(strata[: len(x)], strata[len(x) :]))


class Curve(NamedTuple):
    """The interquartile mean of several runs over env steps."""

    steps: Float[np.ndarray, "T"]
    value: Float[np.ndarray, "T"]
    low: Float[np.ndarray, "T"] | None  # None of a single run
    high: Float[np.ndarray, "T"] | None


def curve(runs: Sequence[Evaluations], points: int = 200) -> Curve:
    """Return the interquartile mean of some runs' evaluations, step by step, where all of them have any.

    The grid is the env steps at which any of the runs was evaluated, between the latest first evaluation and the
    earliest last one; in between its own evaluations a run counts by linear interpolation.

    Args:
        runs: the evaluations of each, at least one.
        points: the grid is thinned to at most so many steps.
    """
    first, last = max(steps[0] for steps, _ in runs), min(steps[-1] for steps, _ in runs)
    together = np.unique(np.concatenate([steps for steps, _ in runs])).astype(np.float64)
    grid = together[(first <= together) & (together <= last)]
    grid = grid[np.unique(np.linspace(0, len(grid) - 1, min(len(grid), points)).round().astype(int))]
    scores = np.stack([np.interp(grid, steps, values) for steps, values in runs])
    # The same seed at each step: a resample has the same runs all along the curve.
    found = [estimate([column], pooled_mean) for column in scores.T]
    value = np.asarray([one.value for one in found])
    if len(runs) < 2:
        return Curve(grid, value, None, None)
    return Curve(grid, value, np.asarray([one.low for one in found]), np.asarray([one.high for one in found]))


def normalise(scores: Real[np.ndarray, "N"], low: float, high: float) -> Float[np.ndarray, "N"]:
    """Return ``(score - low) / (high - low)``; 0 for every score where the two are the same."""
    return (scores - low) / (high - low if high != low else 1.0)
