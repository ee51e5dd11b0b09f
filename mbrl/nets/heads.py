"""Encoders, decoders and heads: what reads observations and what predicts from features."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mbrl.core.distributions import SymlogVector, symlog
from mbrl.core.errors import UserError
from mbrl.core.types import Spec, as_dict, is_image
from mbrl.nets.blocks import MLP, fan_in_init
from mbrl.nets.precision import multiply_in


def vector_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every key that is no image, in sorted order.

    Raises:
        UserError: there is no key at all, or one that holds no numbers.
    """
    parts = sorted(as_dict(spec).items())
    if not parts:
        raise UserError("the observation is an empty dict; a world model needs at least one vector or image")
    for name, part in parts:
        if 0 in part.shape:
            raise UserError(f"observation {name!r} has shape {tuple(part.shape)} and so holds no numbers; leave it out")
    return {name: tuple(part.shape) for name, part in parts if not is_image(part)}


def refuse_images(spec: Spec) -> None:
    """Raise a UserError for a key that is an image, on behalf of models that read vectors alone."""
    for name, part in sorted(as_dict(spec).items()):
        if is_image(part):
            shape = tuple(part.shape)
            raise UserError(f"observation {name!r} is an image {shape}; this world model reads vectors (float arrays)")


class VectorEncoder(nn.Module):
    """All vector keys, flattened, joined in sorted order, squashed by symlog, through an MLP."""

    keys: tuple[str, ...]
    layers: int
    units: int
    dtype: Any = jnp.float32  # of the numbers multiplied, here and below

    @nn.compact
    def __call__(self, observation: dict[str, Array], lead: tuple[int, ...]) -> Float[Array, "*N U"]:
        """Map a dict of ``[*lead, *shape]`` to tokens ``[*lead, units]``."""
        parts = [observation[key].reshape((*lead, -1)).astype(jnp.float32) for key in self.keys]
        return MLP(self.layers, self.units, self.dtype)(symlog(jnp.concatenate(parts, -1)))


class VectorDecoder(nn.Module):
    """Features to a prediction of every vector key, flattened to ``[*N, D]``."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    layers: int
    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "*N F"]) -> dict[str, SymlogVector]:
        """Map features ``[*N, F]`` to one distribution per key."""
        x = MLP(self.layers, self.units, self.dtype)(features)
        multiply = multiply_in(self.dtype)
        sizes = {key: int(np.prod(shape, dtype=int)) for key, shape in self.shapes}
        return {
            key: SymlogVector(nn.Dense(size, kernel_init=fan_in_init(), dot_general=multiply)(x))
            for key, size in sizes.items()
        }


class Head(nn.Module):
    """An MLP and a linear output whose initial scale is ``outscale`` (0: starts at zero)."""

    layers: int
    units: int
    outputs: int
    outscale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "*N F"]) -> Float[Array, "*N O"]:
        """Map features ``[*N, F]`` to raw outputs ``[*N, outputs]``."""
        x = MLP(self.layers, self.units, self.dtype)(features)
        return nn.Dense(self.outputs, kernel_init=fan_in_init(self.outscale), dot_general=multiply_in(self.dtype))(x)
