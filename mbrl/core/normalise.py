"""Normalisers: running statistics as a state and pure functions."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from mbrl.core import parallel
from mbrl.core.errors import UserError
from mbrl.core.types import Scalar


@dataclasses.dataclass(frozen=True)
class PercentileConfig:
    """How returns are brought to a common scale."""

    rate: float = 0.01
    """Share of the newest batch in the running percentiles."""
    low: float = 5.0
    """The lower percentile."""
    high: float = 95.0
    """The upper percentile."""
    limit: float = 1.0
    """The smallest scale: returns that vary less are not blown up, for their variation may be noise."""


class PercentileState(NamedTuple):
    """Running percentiles of the returns, from zero; divided by ``correction`` they are unbiased."""

    low: Scalar
    high: Scalar
    correction: Scalar  # the weight seen so far, 1 - (1 - rate)^updates


class Moments(NamedTuple):
    """Running mean and variance of every entry of vectors ``[D]``."""

    mean: Float[Array, "D"]
    variance: Float[Array, "D"]
    batches: Scalar  # taken in so far


def check(config: PercentileConfig) -> None:
    """Raise UserError for the first value outside its range."""
    if not 0 < config.rate <= 1:
        raise UserError(f"percentiles.rate must be above 0 and at most 1, not {config.rate}")
    if not 0 <= config.low < config.high <= 100:
        raise UserError(
            "percentiles.low must lie below percentiles.high, both between 0 and 100, "
            f"not {config.low} and {config.high}"
        )
    if not config.limit > 0:
        raise UserError(f"percentiles.limit must be above 0, not {config.limit}")


def init() -> PercentileState:
    """Return the state that has seen nothing."""
    return PercentileState(jnp.float32(0), jnp.float32(0), jnp.float32(0))


def update(state: PercentileState, returns: Float[Array, "*B"], config: PercentileConfig) -> PercentileState:
    """Take in a batch of returns of any shape; no gradient passes.

    x ← (1 - rate) x + rate · percentile(returns), and the same of the constant 1 as the bias correction.
    (Hafner et al. 2023, "Mastering Diverse Domains through World Models", eq. 7.)
    """
    points = jnp.array([config.low, config.high])
    returns = parallel.gather(jax.lax.stop_gradient(returns).ravel(), axis=0)
    low, high = jnp.percentile(returns, points)
    new = PercentileState(low, high, jnp.ones_like(low))
    return jax.tree.map(lambda old, x: (1 - config.rate) * old + config.rate * x, state, new)


def scale(state: PercentileState, config: PercentileConfig) -> tuple[Scalar, Scalar]:
    """Return (offset, scale): a return is normalised by ``(x - offset) / scale``.

    offset is the lower percentile and scale = max(limit, high - low), both without the bias of the start; before
    the first update they are 0 and the limit.
    """
    weight = jnp.maximum(state.correction, jnp.finfo(state.correction.dtype).tiny)
    low, high = state.low / weight, state.high / weight
    return low, jnp.maximum(high - low, config.limit)


def init_moments(size: int) -> Moments:
    """Return the moments that have seen nothing: mean 0 and variance 1, which change nothing."""
    return Moments(jnp.zeros(size), jnp.ones(size), jnp.float32(0))


def update_moments(
    state: Moments, values: Float[Array, "*N D"], mask: Float[Array, "*N"], rate: Float[ArrayLike, ""]
) -> Moments:
    """Take in a batch of vectors, those whose mask is 1; no gradient passes.

    m ← m + s (m' - m) and v ← (1 - s) v + s v' + s (1 - s) (m' - m)², the moments of a mixture, with m', v' those of
    the batch and s = max(rate, 1 / batches): the mean of all batches until ``rate`` lets the oldest fade.
    """
    values, mask = parallel.gather(jax.lax.stop_gradient((values, mask)), axis=mask.ndim - 1)
    values, weight = values.reshape((-1, values.shape[-1])), mask.reshape((-1, 1))
    total = weight.sum()
    mean = (weight * values).sum(0) / jnp.maximum(total, 1)
    variance = (weight * jnp.square(values - mean[None])).sum(0) / jnp.maximum(total, 1)
    batches = state.batches + (total > 0)
    share = jnp.where(total > 0, jnp.maximum(rate, 1 / jnp.maximum(batches, 1)), 0.0)
    moved = mean - state.mean
    spread = (1 - share) * state.variance + share * variance + share * (1 - share) * jnp.square(moved)
    return Moments(state.mean + share * moved, spread, batches)


def deviation(state: Moments, least: float = 1e-6) -> Float[Array, "D"]:
    """Return the standard deviation of every entry; 1 where it is less than ``least (1 + |mean|)``.

    Such an entry is constant but for the rounding of its mean, which is not to be blown up.
    """
    std = jnp.sqrt(state.variance)
    return jnp.where(std < least * (1 + jnp.abs(state.mean)), 1.0, std)


def whitening(state: Moments, ndim: int) -> tuple[Float[Array, "*N D"], Float[Array, "*N D"]]:
    """Return mean and deviation ``[1, ..., 1, D]`` of ``ndim`` axes, as many as what they scale; no gradient passes."""
    lead = (1,) * (ndim - 1)
    mean, std = jax.lax.stop_gradient((state.mean, deviation(state)))
    return mean.reshape((*lead, -1)), std.reshape((*lead, -1))


def whiten(state: Moments, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """Return ``x`` brought to mean 0 and deviation 1 by the moments."""
    mean, std = whitening(state, x.ndim)
    return (x - mean) / std
