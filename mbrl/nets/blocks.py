"""The blocks everything is built of: dense, block-diagonal and recurrent layers."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NORM_EPSILON = 1e-4


def fan_in_init(scale: float = 1.0) -> nn.initializers.Initializer:
    """Return a truncated-normal fan-in initialiser; ``scale`` 0 gives zeros (heads that start silent)."""
    if scale == 0:
        return nn.initializers.zeros
    return nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal")


class DenseNormAct(nn.Module):
    """Linear, RMSNorm, SiLU: DreamerV3's standard layer."""

    units: int

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N U"]:
        """Map ``[*N, D]`` to ``[*N, units]``."""
        x = nn.Dense(self.units, kernel_init=fan_in_init())(x)
        return nn.silu(nn.RMSNorm(epsilon=NORM_EPSILON)(x))


class MLP(nn.Module):
    """``layers`` standard layers of ``units``."""

    layers: int
    units: int

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N U"]:
        """Map ``[*N, D]`` to ``[*N, units]``."""
        for _ in range(self.layers):
            x = DenseNormAct(self.units)(x)
        return x


class BlockDense(nn.Module):
    """A linear layer whose matrix is block-diagonal: G independent ``I -> O`` maps.

    Parameters grow with 1/G of a dense layer's (Hafner et al. 2023, appendix on the block GRU).
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*N G I"]) -> Float[Array, "*N G O"]:
        """Map ``[*N, G, I]`` to ``[*N, G, features]``."""
        blocks, inputs = x.shape[-2:]
        # The leading axis is a batch of matrices: fans must be those of one block.
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", batch_axis=0)
        kernel = self.param("kernel", init, (blocks, inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros, (blocks, self.features))
        out = jnp.einsum("...gi,gio->...go", x, kernel)
        return out + bias.reshape((1,) * (out.ndim - 2) + bias.shape)


def gru_update(
    gates: Float[Array, "*N G O"], deter: Float[Array, "*N G D"]
) -> Float[Array, "*N G D"]:
    """Return the GRU's next state from its gate inputs, O = 3 D (reset, candidate, update).

    candidate = tanh(sigmoid(reset) * candidate), update = sigmoid(update - 1): the shift by one makes the state
    change slowly at first (Hafner et al. 2020, LayerNorm GRU).
    """
    reset, candidate, update = jnp.split(gates, 3, axis=-1)
    candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
    update = jax.nn.sigmoid(update - 1)
    return update * candidate + (1 - update) * deter


class BlockGRU(nn.Module):
    """A recurrent cell with block-diagonal weights; every block also sees the whole (projected) input.

    Source: DreamerV3 (Hafner et al. 2023), as its public code computes it: previous state, stochastic latent and
    action are each projected to ``hidden``, joined, given to all G blocks beside the block's own state,
    passed through one block-diagonal layer and into the gates.
    """

    hidden: int
    blocks: int

    @nn.compact
    def __call__(
        self, deter: Float[Array, "*N D"], stoch: Float[Array, "*N Z"], action: Float[Array, "*N A"]
    ) -> Float[Array, "*N D"]:
        """Return the next deterministic state ``[*N, D]``; D must be a multiple of ``blocks``."""
        lead, size = deter.shape[:-1], deter.shape[-1]
        inputs = [DenseNormAct(self.hidden)(part) for part in (deter, stoch, action)]
        joined = jnp.concatenate(inputs, -1)[..., None, :]
        grouped = deter.reshape((*lead, self.blocks, size // self.blocks))
        seen = jnp.broadcast_to(joined, (*lead, self.blocks, joined.shape[-1]))
        x = BlockDense(size // self.blocks)(jnp.concatenate([grouped, seen], -1))
        x = nn.silu(nn.RMSNorm(epsilon=NORM_EPSILON)(x.reshape((*lead, size))))
        gates = BlockDense(3 * size // self.blocks)(x.reshape(grouped.shape))
        return gru_update(gates, grouped).reshape((*lead, size))
