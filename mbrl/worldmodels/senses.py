"""How the RSSM takes an observation in and says what it expects to see: vectors by MLPs, images by convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core import parallel
from mbrl.core.distributions import Distribution
from mbrl.core.types import Observation, PRNGKey, Sequence, Spec, as_dict
from mbrl.nets.heads import VectorDecoder, VectorEncoder, vector_shapes
from mbrl.nets.images import ImageConfig, ImageDecoder, ImageEncoder, pictures, shift

# (name of a network, its inputs) -> its output
Apply = Callable[..., Any]


class SensesConfig(NamedTuple):
    """What the model's config says of encoders and decoders."""

    images: ImageConfig  # how images are read and drawn
    layers: tuple[int, int]  # of the vectors' encoder and decoder
    units: int  # width of these, and of the projection inside the image decoders
    blocks: int  # of the recurrent state
    recompute: bool  # images in the backward pass, instead of storing what was computed of them


class Senses:
    """The encoders and decoders of one observation spec; holds definitions, never parameters.

    All vectors go through one MLP each way; every image key has networks of its own.

    Attributes:
        vectors: shape of each key that is no image.
        images: what is known of each key that is.
        width: length of a token.
        encoders: networks by name.
        decoders: networks by name.
    """

    def __init__(self, spec: Spec, config: SensesConfig, dtype: Any) -> None:
        """Describe the networks.

        Args:
            spec: of one environment's observation.
            config: sizes.
            dtype: of the numbers that linear layers multiply.

        Raises:
            UserError: for an image that cannot be halved often enough, or a config of images that makes no sense.
        """
        images, units, blocks = config.images, config.units, config.blocks
        self.vectors = vector_shapes(spec)
        self.images = pictures(spec, images, blocks)
        self.width = units * bool(self.vectors) + sum(math.prod(picture.inner) for picture in self.images.values())
        self.shift = images.shift if self.images else 0
        self.encoders: dict[str, nn.Module] = {}
        self.decoders: dict[str, nn.Module] = {}
        if self.vectors:
            self.encoders["encoder"] = VectorEncoder(tuple(self.vectors), config.layers[0], units, dtype)
            shapes = tuple(self.vectors.items())
            self.decoders["decoder"] = VectorDecoder(shapes, config.layers[1], units, dtype)
        for name, picture in self.images.items():
            self.encoders[f"encoder_{name}"] = ImageEncoder(picture, images, config.recompute)
            self.decoders[f"decoder_{name}"] = ImageDecoder(picture, images, blocks, units, dtype, config.recompute)

    def inputs(self, deter: Float[Array, "B D"], stoch: Float[Array, "B Z"]) -> dict[str, tuple[Any, ...]]:
        """Return what each network is first called with, for latents of these parts."""
        lead, features = deter.shape[:1], jnp.concatenate([deter, stoch], -1)
        read: dict[str, tuple[Any, ...]] = {
            f"encoder_{name}": (jnp.zeros((*lead, *picture.shape), jnp.uint8),) for name, picture in self.images.items()
        }
        drawn = {f"decoder_{name}": (deter, stoch) for name in self.images}
        vectors = {name: jnp.zeros((*lead, *shape)) for name, shape in self.vectors.items()}
        return {"encoder": (vectors, lead), "decoder": (features,)} | read | drawn

    def token(self, apply: Apply, observation: Observation, lead: tuple[int, ...]) -> Float[Array, "*N U"]:
        """Return what is seen as one vector."""
        seen = as_dict(observation)
        parts = [apply("encoder", seen, lead)] if self.vectors else []
        parts += [apply(f"encoder_{name}", seen[name]) for name in self.images]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)

    def expect(self, apply: Apply, deter: Float[Array, "*N D"], stoch: Float[Array, "*N Z"]) -> dict[str, Distribution]:
        """Return a distribution of every key; vectors are flat, ``[*N, D]``, images are not."""
        expected: dict[str, Distribution] = {}
        if self.vectors:
            expected |= apply("decoder", jnp.concatenate([deter, stoch], -1))
        return expected | {name: apply(f"decoder_{name}", deter, stoch) for name in self.images}

    def misfit(self, expected: dict[str, Distribution], observation: Observation, lead: tuple[int, ...]) -> Array:
        """Return minus the log-likelihood of what was seen, summed over keys, ``[*lead]``."""
        seen = as_dict(observation)
        flat = {name: seen[name].reshape((*lead, -1)).astype(jnp.float32) for name in self.vectors}
        truth = flat | {name: seen[name] for name in self.images}
        return jnp.stack([-expected[name].log_prob(truth[name]) for name in expected]).sum(0)

    def shifted(self, key: PRNGKey, sequence: Sequence) -> Sequence:
        """Return ``sequence [T, B]`` with the images of each of the B shifted, all its steps alike."""
        seen = as_dict(sequence.timestep.observation)
        batch = sequence.action.shape[1]
        uniform = parallel.draw(jax.random.uniform, key, (batch, 2), axis=0)
        by = jnp.floor(uniform * (2 * self.shift + 1)).astype(jnp.int32)
        moved = {name: jax.vmap(shift, (1, 0, None), 1)(seen[name], by, self.shift) for name in self.images}
        observation = seen | moved if isinstance(sequence.timestep.observation, dict) else next(iter(moved.values()))
        return sequence._replace(timestep=sequence.timestep._replace(observation=observation))
