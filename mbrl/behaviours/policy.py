"""The policy network and the distribution it emits."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Float

from mbrl.core.distributions import OneHot, Squashed, TanhNormal, mix_uniform, soft_clamp
from mbrl.core.types import Params, PRNGKey, action_dim
from mbrl.nets.heads import Head
from mbrl.nets.precision import Precision, dtype_of

ActionDistribution: TypeAlias = Squashed | OneHot


class PolicyHead:
    """Features to a distribution over action vectors ``[A]``; discrete actions are one-hot."""

    def __init__(
        self,
        action_spec: specs.Array,
        layers: int,
        units: int,
        std_range: tuple[float, float],
        unimix: float,
        precision: Precision = "f32",
    ) -> None:
        """Describe the head.

        Args:
            action_spec: a ``DiscreteArray``, or a ``BoundedArray`` over [-1, 1].
            layers: hidden layers.
            units: their width.
            std_range: smallest and largest standard deviation of a continuous policy.
            unimix: share of uniform mixed into a discrete policy.
            precision: of the numbers that the network multiplies.
        """
        self.discrete = isinstance(action_spec, specs.DiscreteArray)
        self.size = action_dim(action_spec)
        self.std_range, self.unimix = std_range, unimix
        # A small initial output starts continuous policies near mean 0, discrete ones near uniform.
        outputs = self.size if self.discrete else 2 * self.size
        self.net = Head(layers, units, outputs, outscale=0.01, dtype=dtype_of(precision))

    def init(self, key: PRNGKey, features: Float[Array, "*N F"]) -> Params:
        """Draw parameters for features of this shape."""
        return self.net.init(key, features)["params"]

    def apply(self, params: Params, features: Float[Array, "*N F"]) -> ActionDistribution:
        """Return the action distribution for ``features [*N, F]``.

        Continuous: Normal(tanh(m), lo + (hi - lo) sigmoid(s + 2)), as DreamerV3's public code has it.
        """
        raw = self._raw(params, features)
        if self.discrete:
            return OneHot(mix_uniform(raw, self.unimix))
        mean, std = jnp.split(raw, 2, -1)
        low, high = self.std_range
        return Squashed(jnp.tanh(mean), low + (high - low) * jax.nn.sigmoid(std + 2))

    def choose(
        self, params: Params, key: PRNGKey, features: Float[Array, "*N F"], mode: Literal["train", "eval", "random"]
    ) -> Float[Array, "*N A"]:
        """Return the action for the environment: a sample, the policy's mode, or uniform over the action space."""
        policy = self.apply(params, features)
        if mode == "random":
            return self.uniform(key, policy.mode().shape)
        action = policy.sample(key) if mode == "train" else policy.mode()
        return action if self.discrete else jnp.clip(action, -1.0, 1.0)

    def uniform(self, key: PRNGKey, shape: tuple[int, ...]) -> Float[Array, "*N A"]:
        """Draw action vectors uniformly over the action space, for any policy."""
        if self.discrete:
            return jax.nn.one_hot(jax.random.randint(key, shape[:-1], 0, self.size), self.size)
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

    def _raw(self, params: Params, features: Float[Array, "*N F"]) -> Float[Array, "*N O"]:
        return jnp.asarray(self.net.apply({"params": params}, features))


class TanhPolicyHead(PolicyHead):
    """Features to a tanh of normals; for continuous actions only."""

    def apply(self, params: Params, features: Float[Array, "*N F"]) -> TanhNormal:
        """Return the action distribution for ``features [*N, F]``.

        tanh(Normal(m, exp(clamp(s)))): mean m as it is, log-deviation s softly clamped between those of ``std_range``.
        """
        mean, std = jnp.split(self._raw(params, features), 2, -1)
        low, high = (math.log(bound) for bound in self.std_range)
        return TanhNormal(mean, jnp.exp(soft_clamp(std, low, high)))
