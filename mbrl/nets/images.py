"""Encoders and decoders of images, as DreamerV3 has them: convolutions, each at half the resolution of the last."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Float, Int, UInt8

from mbrl.core.distributions import BinaryImage, ColourImage, LaplaceImage
from mbrl.core.errors import UserError, unknown
from mbrl.core.types import Spec, as_dict, image_top, is_image
from mbrl.nets.blocks import NORM_EPSILON, BlockDense, DenseNormAct, fan_in_init, to_blocks
from mbrl.nets.convolution import Sampling, double, halve, in_chunks
from mbrl.nets.precision import multiply_in

ImageDistribution: TypeAlias = BinaryImage | ColourImage | LaplaceImage

_SMALLEST = 4  # pixels of the shorter side that are not halved any more, nor twice as many less one


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """How images are read and drawn."""

    depth: int | None = None
    """Channels of a stage with multiple 1; `None` follows the agent's size."""
    multiples: tuple[int, ...] = (2, 3, 4, 4)
    """Channels of each stage, in depths; the last ones where there are fewer stages, the very last again for more."""
    kernel: int = 5
    """Width of the convolutions, in pixels: odd, or 2 with `stride`, where each stage is then one matrix product of
    blocks that do not overlap."""
    sampling: Sampling = "pool"
    """`pool` takes the maximum of each block and repeats pixels; `stride` convolves by two, and transposed."""
    loss: Literal["mse", "laplace"] = "mse"
    """Of colour images: squared or absolute errors. Binary images have their likelihood."""
    shift: int = 0
    """Pixels by which training images are shifted at random, a sequence as one (Kostrikov et al. 2021); 0 for none."""


class Picture(NamedTuple):
    """What the networks of one image key need to know of it."""

    shape: tuple[int, int, int]  # H, W, C
    binary: bool  # holds 0 and 1 alone
    depths: tuple[int, ...]  # channels of each stage, from the image inwards

    @property
    def inner(self) -> tuple[int, int, int]:
        """Shape of what the last stage leaves."""
        height, width, _ = self.shape
        return height >> len(self.depths), width >> len(self.depths), self.depths[-1]


def pictures(spec: Spec, config: ImageConfig, blocks: int) -> dict[str, Picture]:
    """Return the image keys in sorted order.

    Args:
        spec: of an observation.
        config: with its depth filled in.
        blocks: the recurrent state's, between which the channels of the last stage are shared out.

    Raises:
        UserError: the config makes no sense, or an image cannot be halved often enough.
    """
    images = {name: part for name, part in sorted(as_dict(spec).items()) if is_image(part)}
    if images:
        _check(config, blocks)
    return {name: _picture(name, part, config) for name, part in images.items()}


def _check(config: ImageConfig, blocks: int) -> None:
    depth, multiples = config.depth, config.multiples
    if depth is None or depth < 1:
        raise UserError(f"worldmodel.images.depth must be at least 1; got {depth}")
    if not multiples or min(multiples) < 1:
        raise UserError(f"worldmodel.images.multiples must be numbers of at least 1; got {multiples}")
    if depth * multiples[-1] % blocks:
        raise UserError(
            f"worldmodel.images.depth times the last of its multiples must be a multiple of worldmodel.blocks "
            f"({blocks}); got {depth} x {multiples[-1]}"
        )
    if config.sampling not in {"pool", "stride"}:
        raise unknown("worldmodel.images.sampling", config.sampling, ("pool", "stride"))
    patches = config.sampling == "stride" and config.kernel == 2
    if not patches and (config.kernel < 3 or config.kernel % 2 == 0):
        raise UserError(f"worldmodel.images.kernel must be odd and at least 3, or 2 with sampling stride; "
                        f"got {config.kernel} with {config.sampling}")
    if config.loss not in {"mse", "laplace"}:
        raise unknown("worldmodel.images.loss", config.loss, ("mse", "laplace"))
    if config.shift < 0:
        raise UserError(f"worldmodel.images.shift must be at least 0; got {config.shift}")


def _picture(name: str, spec: specs.Array, config: ImageConfig) -> Picture:
    height, width, channels = spec.shape
    stages = 0
    while min(height, width) >> stages >= 2 * _SMALLEST:
        stages += 1
    unit = 1 << stages
    if stages == 0 or height % unit or width % unit:
        near = ", ".join(f"{max(8, side // unit * unit)}" for side in (height, width))
        raise UserError(
            f"observation {name!r} is an image of {height} x {width} pixels, which cannot be halved until its shorter "
            f"side has {_SMALLEST} to {2 * _SMALLEST - 1}; sides of {near} can"
        )
    if config.shift >= min(height, width):
        raise UserError(f"worldmodel.images.shift must be less than the {min(height, width)} pixels of {name!r}; "
                        f"got {config.shift}")
    multiples = config.multiples + (config.multiples[-1],) * (stages - len(config.multiples))
    depths = tuple((config.depth or 0) * multiple for multiple in multiples[len(multiples) - stages :])
    return Picture((height, width, channels), image_top(spec) == 1, depths)


def shift(image: UInt8[Array, "*N H W C"], by: Int[Array, "2"], most: int) -> UInt8[Array, "*N H W C"]:
    """Return an image padded by its border and cut out ``by - most`` pixels further down and right.

    Args:
        image: any number of them, all shifted alike.
        by: from 0 to 2 ``most``, down and right.
        most: pixels of padding.
    """
    pad = [(0, 0)] * (image.ndim - 3) + [(most, most), (most, most), (0, 0)]
    padded = jnp.pad(image, pad, mode="edge")
    for axis, start in ((-3, by[0]), (-2, by[1])):
        padded = jax.lax.dynamic_slice_in_dim(padded, start, image.shape[axis], axis % image.ndim)
    return padded


def normed(x: Float[Array, "*N C"], scale: Float[Array, "C"]) -> Float[Array, "*N C"]:
    """Return RMSNorm over channels, then SiLU."""
    return nn.silu(x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + NORM_EPSILON) * for_all(scale, x))


def for_all(channels: Float[Array, "C"], x: Float[Array, "*N C"]) -> Float[Array, "..."]:
    """Return a number for each channel in a shape that is broadcast over ``x``."""
    return channels.reshape((1,) * (x.ndim - 1) + channels.shape)


class ImageEncoder(nn.Module):
    """Stages of convolution, halving, RMSNorm and SiLU, on pixels in [-0.5, 0.5] (Hafner et al. 2023)."""

    picture: Picture
    config: ImageConfig
    recompute: bool = True  # a few images at a time, see ``in_chunks``; here and below

    @nn.compact
    def __call__(self, image: UInt8[Array, "*N H W C"]) -> Float[Array, "*N F"]:
        """Map images to tokens, what the last stage leaves as one vector."""
        shape, channels, layers = self.picture.shape, self.picture.shape[-1], []
        width = self.config.kernel
        for number, depth in enumerate(self.picture.depths):
            kernel = self.param(f"kernel_{number}", fan_in_init(), (width, width, channels, depth))
            bias = self.param(f"bias_{number}", nn.initializers.zeros, (depth,))
            layers.append((kernel, bias, self.param(f"scale_{number}", nn.initializers.ones, (depth,))))
            channels = depth
        lead, most = image.shape[:-3], 1.0 if self.picture.binary else 255.0

        def stages(x: Array) -> Array:
            x = x.astype(jnp.float32) / most - 0.5
            for kernel, bias, scale in layers:
                # A bias may be added after the maximum as well as before.
                x = halve(x, kernel, self.config.sampling)
                x = normed(x + for_all(bias, x), scale)
            return x

        flat = image.reshape((-1, *shape))
        tokens = in_chunks(stages, flat) if self.recompute else stages(flat)
        return tokens.reshape((*lead, math.prod(self.picture.inner)))


class ImageDecoder(nn.Module):
    """Draws an image from a latent: the smallest stage block by block, then doubled and convolved.

    Every block of the recurrent state has its own channels of the smallest stage, and all see the stochastic part
    (danijar/dreamerv3, ``rssm.py``).
    """

    picture: Picture
    config: ImageConfig
    blocks: int
    units: int
    dtype: Any = jnp.float32  # of the numbers that linear layers multiply
    recompute: bool = True

    def setup(self) -> None:
        """Declare the parameters."""
        size = math.prod(self.picture.inner)
        self.own = BlockDense(size, self.dtype)
        self.join = DenseNormAct(2 * self.units, self.dtype)
        self.spread = nn.Dense(size, kernel_init=fan_in_init(), dot_general=multiply_in(self.dtype))
        channels = (*self.picture.depths[::-1], self.picture.shape[-1])
        kernels = [(self.config.kernel, self.config.kernel, *pair) for pair in itertools.pairwise(channels)]
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        self.kernels = [self.param(f"kernel_{i}", fan_in_init(), shape) for i, shape in enumerate(kernels)]
        self.biases = [self.param(f"bias_{i}", zeros, (depth,)) for i, depth in enumerate(channels[1:])]
        self.scales = [self.param(f"scale_{i}", ones, (depth,)) for i, depth in enumerate(channels[:-1])]

    def __call__(self, deter: Float[Array, "*N D"], stoch: Float[Array, "*N Z"]) -> ImageDistribution:
        """Map the parts of a latent to a distribution of the image."""
        layers = list(zip(self.scales, self.kernels, self.biases, strict=True))

        def stages(x: Array) -> Array:
            for scale, kernel, bias in layers:
                x = double(normed(x, scale), kernel, self.config.sampling)
                x = x + for_all(bias, x)
            return x

        flat = self.smallest(deter, stoch).reshape((-1, *self.picture.inner))
        out = in_chunks(stages, flat) if self.recompute else stages(flat)
        return self.distribution(out.reshape((*deter.shape[:-1], *self.picture.shape)))

    def smallest(self, deter: Float[Array, "*N D"], stoch: Float[Array, "*N Z"]) -> Float[Array, "*N h w C"]:
        """Return the smallest stage, not yet normed."""
        height, width, channels = self.picture.inner
        lead = deter.shape[:-1]
        own = self.own(to_blocks(deter, self.blocks))
        own = own.reshape((self.blocks, *lead, height * width, channels // self.blocks))
        own = jnp.moveaxis(own, 0, -2).reshape((*lead, height, width, channels))
        return own + self.spread(self.join(stoch)).reshape((*lead, height, width, channels))

    def distribution(self, out: Float[Array, "*N H W C"]) -> ImageDistribution:
        """Return what the last stage's output stands for."""
        if self.picture.binary:
            return BinaryImage(out)
        return (ColourImage if self.config.loss == "mse" else LaplaceImage)(jax.nn.sigmoid(out))
