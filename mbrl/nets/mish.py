"""The layers of TD-MPC2: dense, layer norm, Mish; and its simplicial normalisation (Hansen et al. 2024)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.nets.precision import multiply_in

# The authors' code: weights are drawn small, biases are zero; the epsilon is PyTorch's.
_SMALL = nn.initializers.normal(0.02)
_EPSILON = 1e-5


class DenseNorm(nn.Module):
    """Linear, then layer norm."""

    units: int
    dtype: Any = jnp.float32  # of the numbers multiplied (``precision``), here and below

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N U"]:
        """Map ``[*N, D]`` to ``[*N, units]``."""
        x = nn.Dense(self.units, kernel_init=_SMALL, dot_general=multiply_in(self.dtype))(x)
        return nn.LayerNorm(epsilon=_EPSILON)(x)


class MishMLP(nn.Module):
    """``layers`` of linear, layer norm and Mish."""

    layers: int
    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N U"]:
        """Map ``[*N, D]`` to ``[*N, units]``, or to itself where there is no layer."""
        for _ in range(self.layers):
            x = jax.nn.mish(DenseNorm(self.units, self.dtype)(x))
        return x


class MishHead(nn.Module):
    """An MLP and a linear output; ``silent`` ones start at zero."""

    layers: int
    units: int
    outputs: int
    silent: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N O"]:
        """Map ``[*N, D]`` to raw outputs ``[*N, outputs]``."""
        x = MishMLP(self.layers, self.units, self.dtype)(x)
        init = nn.initializers.zeros if self.silent else _SMALL
        return nn.Dense(self.outputs, kernel_init=init, dot_general=multiply_in(self.dtype))(x)


class SimplexMLP(nn.Module):
    """An MLP that ends in linear, layer norm and ``simnorm``: what makes latents."""

    layers: int
    units: int
    outputs: int
    group: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N Z"]:
        """Map ``[*N, D]`` to ``[*N, outputs]``, the entries of each group summing to 1."""
        x = MishMLP(self.layers, self.units, self.dtype)(x)
        return simnorm(DenseNorm(self.outputs, self.dtype)(x), self.group)


def simnorm(x: Float[Array, "*N Z"], group: int) -> Float[Array, "*N Z"]:
    """Return the softmax of every ``group`` entries that lie together, so that each group is a point of a simplex.

    A soft constraint to sparsity without discrete codes; it bounds latents, so that unrolled ones cannot explode.
    (Hansen et al. 2024, eq. 5; Lavoie et al. 2022, "Simplicial Embeddings".)
    """
    grouped = x.reshape((*x.shape[:-1], x.shape[-1] // group, group))
    return jax.nn.softmax(grouped, -1).reshape(x.shape)
