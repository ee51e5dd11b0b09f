"""The stochastic half of a latent state: categorical (DreamerV2/3) or Gaussian (PlaNet, DreamerV1).

Both turn a network's raw outputs into normalised statistics once; everything after works on statistics, arrays
``[*N, S, P]`` of S variables.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core import parallel
from mbrl.core.distributions import categorical_kl, mix_uniform, normal_kl, straight_through
from mbrl.core.types import PRNGKey


@runtime_checkable
class Stochastic(Protocol):
    """S independent variables given by statistics."""

    @property
    def outputs(self) -> int:
        """How many raw outputs a network must have."""
        ...

    @property
    def size(self) -> int:
        """Z, the length of a flattened sample."""
        ...

    def statistics(self, raw: Array) -> Array:
        """Normalise raw outputs ``[*N, outputs]`` to statistics ``[*N, S, P]``."""
        ...

    def noise(self, key: PRNGKey, lead: tuple[int, ...]) -> Array:
        """Draw what ``sample`` needs for leading axes ``lead``, the last of which is the batch's.

        Drawn outside scans, where it is cheaper.
        """
        ...

    def sample(self, statistics: Array, noise: Array) -> Array:
        """Return a reparameterised (or straight-through) sample ``[*N, Z]``."""
        ...

    def kl(self, p: Array, q: Array) -> Array:
        """Return KL(p || q) in nats, summed over the S variables, ``[*N]``."""
        ...

    def entropy(self, statistics: Array) -> Array:
        """Return the entropy in nats, summed over the S variables, ``[*N]``."""
        ...

    def pack(self, sample: Array) -> Array:
        """Return a sample ``[*N, Z]`` in its smallest lossless form."""
        ...

    def unpack(self, packed: Array) -> Array:
        """Undo ``pack``."""
        ...


@dataclasses.dataclass(frozen=True)
class Categorical:
    """S one-hot variables of C classes with a share of uniform mixed in (Hafner et al. 2021; 2023)."""

    variables: int
    classes: int
    unimix: float

    @property
    def outputs(self) -> int:
        """S * C logits."""
        return self.variables * self.classes

    @property
    def size(self) -> int:
        """S * C."""
        return self.variables * self.classes

    def statistics(self, raw: Float[Array, "*N O"]) -> Float[Array, "*N S C"]:
        """Return log-probabilities with the uniform share mixed in."""
        return mix_uniform(raw.reshape((*raw.shape[:-1], self.variables, self.classes)), self.unimix)

    def noise(self, key: PRNGKey, lead: tuple[int, ...]) -> Float[Array, "*N S"]:
        """Draw uniform noise."""
        return parallel.draw(jax.random.uniform, key, (*lead, self.variables), axis=len(lead) - 1)

    def sample(self, statistics: Float[Array, "*N S C"], noise: Float[Array, "*N S"]) -> Float[Array, "*N Z"]:
        """Return straight-through one-hots, flattened."""
        return straight_through(statistics, noise).reshape((*statistics.shape[:-2], self.size))

    def kl(self, p: Float[Array, "*N S C"], q: Float[Array, "*N S C"]) -> Float[Array, "*N"]:
        """Return KL(p || q), summed over variables."""
        return categorical_kl(p, q).sum(-1)

    def entropy(self, statistics: Float[Array, "*N S C"]) -> Float[Array, "*N"]:
        """Return the entropy, summed over variables."""
        return -(jnp.exp(statistics) * statistics).sum((-2, -1))

    def pack(self, sample: Float[Array, "*N Z"]) -> Array:
        """Return class indices ``[*N, S]`` as bytes."""
        grouped = sample.reshape((*sample.shape[:-1], self.variables, self.classes))
        return jnp.argmax(grouped, -1).astype(jnp.uint8)

    def unpack(self, packed: Array) -> Float[Array, "*N Z"]:
        """Return one-hots from class indices."""
        return jax.nn.one_hot(packed, self.classes).reshape((*packed.shape[:-1], self.size))


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """S normal variables (Hafner et al. 2019, 2020): mean and softplus standard deviation above a floor."""

    variables: int
    min_std: float = 0.1

    @property
    def outputs(self) -> int:
        """S means and S raw standard deviations."""
        return 2 * self.variables

    @property
    def size(self) -> int:
        """S."""
        return self.variables

    def statistics(self, raw: Float[Array, "*N O"]) -> Float[Array, "*N S 2"]:
        """Return means and standard deviations, stacked last."""
        mean, std = jnp.split(raw, 2, -1)
        return jnp.stack([mean, jax.nn.softplus(std) + self.min_std], -1)

    def noise(self, key: PRNGKey, lead: tuple[int, ...]) -> Float[Array, "*N S"]:
        """Draw standard normal noise."""
        return parallel.draw(jax.random.normal, key, (*lead, self.variables), axis=len(lead) - 1)

    def sample(self, statistics: Float[Array, "*N S 2"], noise: Float[Array, "*N S"]) -> Float[Array, "*N S"]:
        """Return mean + std * noise."""
        return statistics[..., 0] + statistics[..., 1] * noise

    def kl(self, p: Float[Array, "*N S 2"], q: Float[Array, "*N S 2"]) -> Float[Array, "*N"]:
        """Return KL(p || q), summed over variables."""
        return normal_kl((p[..., 0], p[..., 1]), (q[..., 0], q[..., 1])).sum(-1)

    def entropy(self, statistics: Float[Array, "*N S 2"]) -> Float[Array, "*N"]:
        """Return the differential entropy, 0.5 ln(2 pi e std^2) summed over variables."""
        return (jnp.log(statistics[..., 1]) + 0.5 * jnp.log(2 * jnp.pi * jnp.e)).sum(-1)

    def pack(self, sample: Float[Array, "*N S"]) -> Float[Array, "*N S"]:
        """Return the sample itself."""
        return sample

    def unpack(self, packed: Float[Array, "*N S"]) -> Float[Array, "*N S"]:
        """Return the sample itself."""
        return packed
