"""Distributions that networks emit; the only module that talks to distrax.

distrax serves the families it has. The straight-through sample and the two-hot head are written here: a sampled
`distrax` categorical passes no gradient, and distrax has no two-hot.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import distrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from mbrl.core import parallel
from mbrl.core.types import PRNGKey

Normal = distrax.Normal


@runtime_checkable
class Distribution(Protocol):
    """What heads return: enough to train on and to read out."""

    def mean(self) -> Array:
        """The expectation."""
        ...

    def log_prob(self, value: Array) -> Array:
        """Log-likelihood of ``value``, summed over event axes."""
        ...


def symlog(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Return sign(x) ln(1 + |x|), which squashes large magnitudes (Hafner et al. 2023, eq. 9)."""
    side = _side(x)
    return side * jnp.log1p(side * x)


def symexp(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Return sign(x) (exp|x| - 1), the inverse of ``symlog`` (Hafner et al. 2023, eq. 9)."""
    side = _side(x)
    return side * jnp.expm1(side * x)


def _side(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Return 1, or -1 below 0: a sign that is not 0 at 0, where the slope of both would be 0 and not 1."""
    return jnp.where(x < 0, -1.0, 1.0)


def symexp_bins(bins: int, limit: float = 20.0) -> Float[Array, "K"]:
    """Return an odd number of bins, symexp-spaced over [-symexp(limit), symexp(limit)] and exactly mirrored.

    Mirroring the negative half makes equal weights on both sides cancel to exactly zero
    (Hafner et al. 2023, eq. 10).
    """
    half = symexp(jnp.linspace(-limit, 0.0, (bins - 1) // 2 + 1, dtype=jnp.float32))
    return jnp.concatenate([half, -half[:-1][::-1]])


def even_bins(bins: int, limit: float = 10.0) -> Float[Array, "K"]:
    """Return an odd number of bins, evenly spaced over [-limit, limit] and exactly mirrored."""
    half = jnp.linspace(-limit, 0.0, (bins - 1) // 2 + 1, dtype=jnp.float32)
    return jnp.concatenate([half, -half[:-1][::-1]])


def two_hot(value: Float[Array, "*N"], bins: Float[Array, "K"]) -> Float[Array, "*N K"]:
    """Return weights on the two bins around ``value`` whose mean is ``value`` (Hafner et al. 2023, eq. 11).

    Values outside the bins go wholly to the outermost one.
    """
    last = bins.shape[0] - 1
    value = jnp.clip(value, bins[0], bins[-1])
    below = jnp.clip(jnp.searchsorted(bins, value, side="right") - 1, 0, last - 1)
    position = below + (value - bins[below]) / (bins[below + 1] - bins[below])
    # A tent of width one around the fractional position: the same as two one-hots, in one fusable expression.
    grid = jnp.arange(last + 1, dtype=position.dtype).reshape((1,) * value.ndim + (last + 1,))
    return jnp.maximum(0.0, 1.0 - jnp.abs(grid - position[..., None]))


class TwoHot(NamedTuple):
    """A scalar as a categorical over symexp-spaced bins (Hafner et al. 2023, eq. 10-11)."""

    logits: Float[Array, "*N K"]

    def mean(self) -> Float[Array, "*N"]:
        """The expectation; mirrored bins of equal weight cancel to exactly zero."""
        probs = jax.nn.softmax(self.logits)
        bins = symexp_bins(self.logits.shape[-1])
        # In full precision: accelerators would multiply bins of 10^8 in ten bits.
        return jnp.dot(probs - probs[..., ::-1], bins, precision="highest") / 2

    def log_prob(self, value: Float[Array, "*N"]) -> Float[Array, "*N"]:
        """Minus the cross-entropy of the two-hot target, ``[*N]``."""
        weighted = (two_hot(value, symexp_bins(self.logits.shape[-1])) * self.logits).sum(-1)
        return weighted - jax.nn.logsumexp(self.logits, axis=-1)


class SymlogTwoHot(NamedTuple):
    """A scalar as a categorical over bins that lie evenly in symlog space, -10 to 10 (Hansen et al. 2024, TD-MPC2).

    Unlike ``TwoHot`` it averages in symlog space: what it reads out is symexp of the mean.
    """

    logits: Float[Array, "*N K"]

    def mean(self) -> Float[Array, "*N"]:
        """Symexp of the expected symlog; bins of equal weight on both sides cancel to exactly zero."""
        probs = jax.nn.softmax(self.logits)
        bins = even_bins(self.logits.shape[-1])
        return symexp(jnp.dot(probs - probs[..., ::-1], bins, precision="highest") / 2)

    def log_prob(self, value: Float[Array, "*N"]) -> Float[Array, "*N"]:
        """Minus the cross-entropy of the two-hot target, ``[*N]``."""
        weighted = (two_hot(symlog(value), even_bins(self.logits.shape[-1])) * self.logits).sum(-1)
        return weighted - jax.nn.logsumexp(self.logits, axis=-1)


class Bernoulli(NamedTuple):
    """The probability of 1, from a logit."""

    logits: Float[Array, "*N"]

    def mean(self) -> Float[Array, "*N"]:
        """The probability of 1."""
        return jax.nn.sigmoid(self.logits)

    def log_prob(self, value: Float[Array, "*N"]) -> Float[Array, "*N"]:
        """Minus the cross-entropy; ``value`` may lie between 0 and 1."""
        return jnp.asarray(distrax.Bernoulli(logits=self.logits).log_prob(value))


class SymlogVector(NamedTuple):
    """A vector predicted in symlog space with unit variance (Hafner et al. 2023, eq. 8)."""

    prediction: Float[Array, "*N D"]  # in symlog space

    def mean(self) -> Float[Array, "*N D"]:
        """The prediction in the vector's own units."""
        return symexp(self.prediction)

    def log_prob(self, value: Float[Array, "*N D"]) -> Float[Array, "*N"]:
        """Minus the squared error in symlog space summed over D, without the Gaussian's constants."""
        return -jnp.square(self.prediction - symlog(value)).sum(-1)


class BinaryImage(NamedTuple):
    """An image of 0 and 1: the probability of 1 of each pixel, from a logit."""

    logits: Float[Array, "*N H W C"]

    def mean(self) -> Float[Array, "*N H W C"]:
        """The probabilities of 1."""
        return jax.nn.sigmoid(self.logits)

    def log_prob(self, value: Real[Array, "*N H W C"]) -> Float[Array, "*N"]:
        """Log-likelihood in nats, summed over the image."""
        value = value.astype(jnp.float32)
        # One softplus instead of the two of a cross-entropy written out.
        return (value * self.logits - jax.nn.softplus(self.logits)).sum((-3, -2, -1))


class ColourImage(NamedTuple):
    """An image of bytes, predicted in [0, 1] with unit variance (Hafner et al. 2023)."""

    prediction: Float[Array, "*N H W C"]  # in [0, 1]

    def mean(self) -> Float[Array, "*N H W C"]:
        """The prediction in bytes' units, 0 to 255."""
        return 255 * self.prediction

    def log_prob(self, value: Real[Array, "*N H W C"]) -> Float[Array, "*N"]:
        """Minus the squared error in [0, 1] summed over the image, without the Gaussian's constants."""
        return -jnp.square(self.prediction - value.astype(jnp.float32) / 255).sum((-3, -2, -1))


class LaplaceImage(NamedTuple):
    """An image of bytes, predicted in [0, 1] with unit scale: errors count by their size, not by its square."""

    prediction: Float[Array, "*N H W C"]  # in [0, 1]

    def mean(self) -> Float[Array, "*N H W C"]:
        """The prediction in bytes' units, 0 to 255."""
        return 255 * self.prediction

    def log_prob(self, value: Real[Array, "*N H W C"]) -> Float[Array, "*N"]:
        """Minus the absolute error in [0, 1] summed over the image, without the Laplacian's constants."""
        return -jnp.abs(self.prediction - value.astype(jnp.float32) / 255).sum((-3, -2, -1))


def mix_uniform(logits: Float[Array, "*N K"], share: float) -> Float[Array, "*N K"]:
    """Return log-probabilities of ``(1 - share) softmax(logits) + share / K`` (Hafner et al. 2023, "unimix")."""
    if share == 0:
        return jax.nn.log_softmax(logits)
    return jnp.log((1 - share) * jax.nn.softmax(logits) + share / logits.shape[-1])


def straight_through(log_probs: Float[Array, "*N K"], uniform: Float[Array, "*N"]) -> Float[Array, "*N K"]:
    """Return a one-hot sample whose gradient is that of the probabilities (Bengio et al. 2013).

    Drawn by inverting the cumulative distribution: one uniform number a variable instead of one Gumbel a class.

    Args:
        log_probs: normalised log-probabilities.
        uniform: noise in [0, 1).
    """
    probs = jnp.exp(log_probs)
    passed = jnp.cumsum(jax.lax.stop_gradient(probs), -1) <= uniform[..., None]
    # Rounding can leave the sum of all probabilities just below the noise: the last class takes that.
    chosen = jnp.minimum(passed.sum(-1), log_probs.shape[-1] - 1)
    sample = jax.nn.one_hot(chosen, log_probs.shape[-1])
    return jax.lax.stop_gradient(sample - probs) + probs


def categorical_kl(p: Float[Array, "*N K"], q: Float[Array, "*N K"]) -> Float[Array, "*N"]:
    """Return KL(p || q) in nats from normalised log-probabilities."""
    return jnp.asarray(distrax.Categorical(logits=p).kl_divergence(distrax.Categorical(logits=q)))


def normal_kl(p: tuple[Array, Array], q: tuple[Array, Array]) -> Array:
    """Return the elementwise KL(p || q) in nats of two normals given as (mean, standard deviation)."""
    return jnp.asarray(Normal(*p).kl_divergence(Normal(*q)))


def soft_clamp(
    x: Float[Array, "*N"], low: Float[ArrayLike, "..."], high: Float[ArrayLike, "..."]
) -> Float[Array, "*N"]:
    """Return x, bent smoothly so that it stays between bounds, which may lack leading axes of x.

    x ← high - softplus(high - x); x ← low + softplus(x - low). Far inside it is x itself, and its gradient vanishes
    only far outside; ``high`` is passed by exp(low - high) at most. (Chua et al. 2018, appendix A.1.)
    """
    low, high = jnp.broadcast_to(low, x.shape), jnp.broadcast_to(high, x.shape)
    bent = high - jax.nn.softplus(high - x)
    return low + jax.nn.softplus(bent - low)


class Gaussian(NamedTuple):
    """Numbers, each normally distributed by itself."""

    loc: Float[Array, "*N"]
    scale: Float[Array, "*N"]

    def mean(self) -> Float[Array, "*N"]:
        """The expectation."""
        return self.loc

    def log_prob(self, value: Float[Array, "*N"]) -> Float[Array, "*N"]:
        """Log-density of each number."""
        return jnp.asarray(Normal(self.loc, self.scale).log_prob(value))


class Squashed(NamedTuple):
    """A bounded continuous policy: independent normals with means in [-1, 1] (Hafner et al. 2023).

    Samples may leave [-1, 1]; the environment clips them and the dynamics rescale them.
    """

    loc: Float[Array, "*N A"]
    scale: Float[Array, "*N A"]

    def mode(self) -> Float[Array, "*N A"]:
        """The most likely action."""
        return self.loc

    def sample(self, key: PRNGKey) -> Float[Array, "*N A"]:
        """A reparameterised sample: gradients reach ``loc`` and ``scale``."""
        return self.loc + self.scale * parallel.draw(jax.random.normal, key, self.loc.shape, axis=0)

    def log_prob(self, action: Float[Array, "*N A"]) -> Float[Array, "*N"]:
        """Log-density, summed over A."""
        return Normal(self.loc, self.scale).log_prob(action).sum(-1)

    def entropy(self) -> Float[Array, "*N"]:
        """Differential entropy in nats, summed over A."""
        return Normal(self.loc, self.scale).entropy().sum(-1)


class TanhNormal(NamedTuple):
    """A bounded continuous policy: a = tanh(u) of independent normals u (Haarnoja et al. 2018b, appendix C).

    log p(a) = sum_i log Normal(u_i) - log(1 - tanh(u_i)^2).
    """

    loc: Float[Array, "*N A"]  # of u
    scale: Float[Array, "*N A"]

    def mode(self) -> Float[Array, "*N A"]:
        """The action of the most likely u."""
        return jnp.tanh(self.loc)

    def sample(self, key: PRNGKey, axis: int = 0) -> Float[Array, "*N A"]:
        """A reparameterised sample: gradients reach ``loc`` and ``scale``; rows lie along ``axis``."""
        return self.sample_and_log_prob(key, axis)[0]

    def sample_and_log_prob(self, key: PRNGKey, axis: int = 0) -> tuple[Float[Array, "*N A"], Float[Array, "*N"]]:
        """A reparameterised sample and its log-density, exact however near the border the sample lies.

        Args:
            key: the same on all devices.
            axis: along which the rows lie that devices share (``parallel.draw``).
        """
        u = self.loc + self.scale * parallel.draw(jax.random.normal, key, self.loc.shape, axis)
        return jnp.tanh(u), self._log_prob(u)

    def log_prob(self, action: Float[Array, "*N A"]) -> Float[Array, "*N"]:
        """Log-density of actions in [-1, 1], summed over A; at the border, that of the last number before it."""
        edge = 1.0 - jnp.finfo(jnp.float32).epsneg
        return self._log_prob(jnp.arctanh(jnp.clip(action, -edge, edge)))

    def _log_prob(self, u: Float[Array, "*N A"]) -> Float[Array, "*N"]:
        # log(1 - tanh(u)^2) = 2 (log 2 - u - log(1 + exp(-2u))), which loses no digits where tanh(u) rounds to 1.
        slope = 2.0 * (jnp.log(2.0) - u - jax.nn.softplus(-2.0 * u))
        return (Normal(self.loc, self.scale).log_prob(u) - slope).sum(-1)


class OneHot(NamedTuple):
    """A discrete policy whose samples are one-hot with a straight-through gradient."""

    log_probs: Float[Array, "*N A"]

    def mode(self) -> Float[Array, "*N A"]:
        """The most likely action, one-hot."""
        return jax.nn.one_hot(jnp.argmax(self.log_probs, axis=-1), self.log_probs.shape[-1])

    def sample(self, key: PRNGKey) -> Float[Array, "*N A"]:
        """A one-hot sample with the gradient of the probabilities."""
        uniform = parallel.draw(jax.random.uniform, key, self.log_probs.shape[:-1], axis=0)
        return straight_through(self.log_probs, uniform)

    def log_prob(self, action: Float[Array, "*N A"]) -> Float[Array, "*N"]:
        """Log-probability of a one-hot action."""
        return (jax.lax.stop_gradient(action) * self.log_probs).sum(-1)

    def entropy(self) -> Float[Array, "*N"]:
        """Entropy in nats."""
        return -(jnp.exp(self.log_probs) * self.log_probs).sum(-1)
