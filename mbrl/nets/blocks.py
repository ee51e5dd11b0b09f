"""The blocks everything is built of: dense, block-diagonal and recurrent layers."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.nets.precision import multiply_in, product

NORM_EPSILON = 1e-4
# The standard deviation of a unit normal cut at two standard deviations is 0.8796.
TRUNCATION_CORRECTION = 1 / 0.87962566103423978


def fan_in_init(scale: float = 1.0) -> nn.initializers.Initializer:
    """Return a truncated-normal fan-in initialiser; ``scale`` 0 gives zeros (heads that start silent)."""
    if scale == 0:
        return nn.initializers.zeros
    return nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal")


class DenseNormAct(nn.Module):
    """Linear, RMSNorm, SiLU: DreamerV3's standard layer."""

    units: int
    dtype: Any = jnp.float32  # of the numbers multiplied (``precision``), here and below

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N U"]:
        """Map ``[*N, D]`` to ``[*N, units]``."""
        x = nn.Dense(self.units, kernel_init=fan_in_init(), dot_general=multiply_in(self.dtype))(x)
        return nn.silu(nn.RMSNorm(epsilon=NORM_EPSILON)(x))


class MLP(nn.Module):
    """``layers`` standard layers of ``units``."""

    layers: int
    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N U"]:
        """Map ``[*N, D]`` to ``[*N, units]``."""
        for _ in range(self.layers):
            x = DenseNormAct(self.units, self.dtype)(x)
        return x


def to_blocks(x: Float[Array, "*N D"], blocks: int) -> Float[Array, "G *N I"]:
    """Cut the last axis into G blocks and put these first: the layout in which products with blocks need no copies."""
    return jnp.moveaxis(x.reshape((*x.shape[:-1], blocks, x.shape[-1] // blocks)), -2, 0)


def from_blocks(x: Float[Array, "G *N I"]) -> Float[Array, "*N D"]:
    """Undo ``to_blocks``."""
    x = jnp.moveaxis(x, 0, -2)
    return x.reshape((*x.shape[:-2], x.shape[-2] * x.shape[-1]))


class BlockDense(nn.Module):
    """A linear layer with a block-diagonal matrix: G independent maps, which may all see one more, shared input.

    Equal to repeating the shared input into every block and applying G dense layers, without the copies: the shared
    part is one matrix product. Blocks are the leading axis, so that their products are one batched matrix product on
    memory as it lies. (Hafner et al. 2023, appendix on the block GRU.)
    """

    features: int  # of all blocks together
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "G *N I"], shared: Float[Array, "*N S"] | None = None) -> Float[Array, "G *N O"]:
        """Map blocks ``[G, *N, I]`` (and ``[*N, S]``) to blocks ``[G, *N, O]``; G divides ``features = G O``."""
        blocks, inputs, outputs = x.shape[0], x.shape[-1], self.features // x.shape[0]
        extra = 0 if shared is None else shared.shape[-1]
        # Fans are those of one block, its own and the shared input together.
        init = nn.initializers.truncated_normal(TRUNCATION_CORRECTION * (inputs + extra) ** -0.5)
        kernel = self.param("kernel", init, (blocks, inputs, outputs))
        out = jax.vmap(partial(product, dtype=self.dtype))(x, kernel)
        if shared is not None:
            for_all = self.param("shared", init, (extra, self.features))
            out = out + to_blocks(product(shared, for_all, self.dtype), blocks)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return out + bias.reshape((blocks, *(1 for _ in x.shape[1:-1]), outputs))


def gru_update(
    reset: Float[Array, "*N"], candidate: Float[Array, "*N"], update: Float[Array, "*N"], deter: Float[Array, "*N"]
) -> Float[Array, "*N"]:
    """Return the GRU's next state from its gates' inputs and its state, element by element.

    candidate = tanh(sigmoid(reset) * candidate), update = sigmoid(update - 1): the shift by one makes the state
    change slowly at first (Hafner et al. 2020, LayerNorm GRU).
    """
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
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, deter: Float[Array, "*N D"], stoch: Float[Array, "*N Z"], action: Float[Array, "*N A"]
    ) -> Float[Array, "*N D"]:
        """Return the next deterministic state ``[*N, D]``; D must be a multiple of ``blocks``."""
        size = deter.shape[-1]
        joined = jnp.concatenate([DenseNormAct(self.hidden, self.dtype)(part) for part in (deter, stoch, action)], -1)
        own = to_blocks(deter, self.blocks)
        x = BlockDense(size, self.dtype)(own, joined)
        # The norm is that of the whole state, over blocks and their entries.
        norm = nn.RMSNorm(epsilon=NORM_EPSILON, reduction_axes=(0, -1), feature_axes=(0, -1))
        x = nn.silu(norm(x))
        reset, candidate, update = (BlockDense(size, self.dtype)(x) for _ in range(3))
        return from_blocks(gru_update(reset, candidate, update, own))
