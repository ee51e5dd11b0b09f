"""Convolutions that halve or double an image, as one small convolution at the lower of the two resolutions.

Pooling after a convolution, a stride of two, and a convolution of an enlarged image all treat pixels in blocks of two
by two alike. With a block's four pixels as channels, each of them is a plain, narrower convolution at half the
resolution (3 x 3 for a kernel of 5 x 5): the same function, as tests compare. Doubling then takes 36 products a block
instead of 100; halving by the maximum takes 144, of which some are with zero, but has no windowed maximum, whose
gradient is slow on a CPU, so elsewhere it is done plainly. (Shi et al. 2016 on sub-pixel convolution.) A kernel of
2 x 2 with a stride of two becomes 1 x 1: one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

Sampling: TypeAlias = Literal["pool", "stride"]

# What a CPU convolves at a time: so many images of 64 x 64 and what is computed of them stay in its cache.
CHUNK = 8
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def halve(x: Float[Array, "N H W I"], kernel: Float[Array, "K K I O"], sampling: Sampling) -> Float[Array, "N h w O"]:
    """Return a convolution of half the resolution, by the maximum of each block of four or by a stride of two.

    Padded by zeros to "SAME", as ``jax.lax`` pads; H and W are even.
    """
    if sampling == "stride":
        return convolve(to_channels(x), _fold(kernel, _stride_taps(len(kernel))))
    if jax.default_backend() == "cpu":
        out = convolve(to_channels(x), _fold(kernel, _pool_taps(len(kernel))))
    else:
        out = to_channels(_plain(x, kernel))
    a, b, c, d = jnp.split(out, 4, axis=-1)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def double(x: Float[Array, "N h w I"], kernel: Float[Array, "K K I O"], sampling: Sampling) -> Float[Array, "N H W O"]:
    """Return an image of twice the resolution: each pixel repeated, then convolved; or a convolution's transpose.

    "SAME" as in ``halve``; for ``"stride"`` what ``jax.lax.conv_transpose`` computes.
    """
    taps = _repeat_taps(len(kernel)) if sampling == "pool" else _transpose_taps(len(kernel))
    return to_pixels(convolve(x, _fold(kernel, taps)))


def to_channels(x: Shaped[Array, "N H W I"]) -> Shaped[Array, "N h w C"]:
    """Return each block of two by two pixels as one pixel of four times the channels: row, column, channel."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)


def to_pixels(x: Shaped[Array, "N h w C"]) -> Shaped[Array, "N H W O"]:
    """Undo ``to_channels``."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)


def in_chunks(function: Callable[[Any], Any], images: Any, chunk: int = CHUNK) -> Any:
    """Apply a function of N images to a few at a time where that is faster, and compute them again for the gradient.

    On a CPU what lies between the layers of all images is larger than any cache, and memory takes more time than
    arithmetic. Elsewhere, and for few images, the function is simply called; what does not fill a chunk is treated by
    itself.

    Args:
        function: of a pytree of arrays ``[N, ...]``, to one; image by image.
        images: N of them.
        chunk: how many are treated at a time.
    """
    count = jax.tree.leaves(images)[0].shape[0]
    if jax.default_backend() != "cpu" or count <= chunk:
        return function(images)
    whole = count - count % chunk
    cut = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), images)
    out = jax.lax.map(jax.checkpoint(function, prevent_cse=False), cut)
    out = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), out)
    if whole == count:
        return out
    rest = function(jax.tree.map(lambda x: x[whole:], images))
    return jax.tree.map(lambda one, two: jnp.concatenate([one, two]), out, rest)


def convolve(x: Float[Array, "N H W I"], kernel: Float[Array, "K K I O"]) -> Float[Array, "N H W O"]:
    """Return the plain convolution of odd width, padded by zeros to the same size."""
    if len(kernel) == 1:  # blocks that do not overlap: one matrix product
        return x @ kernel[0, 0]
    return _on_cpu(x, kernel) if jax.default_backend() == "cpu" else _plain(x, kernel)


def _plain(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


# XLA computes the gradient to the kernel as a convolution whose window is the whole image, which its CPU library does
# at a fraction of the speed of the same numbers as one matrix product.
@jax.custom_vjp
def _on_cpu(x: Array, kernel: Array) -> Array:
    return _plain(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], out: Array) -> tuple[Array, Array]:
    # Without the barrier each of the nine shifts below computes its operand again.
    x, kernel, out = jax.lax.optimization_barrier((*saved, out))
    patches = _patches(x, len(kernel))
    to_kernel = patches.reshape(-1, patches.shape[-1]).T @ out.reshape(-1, out.shape[-1])
    return _plain(out, kernel[::-1, ::-1].swapaxes(2, 3)), to_kernel.reshape(kernel.shape)


_on_cpu.defvjp(_forward, _backward)


def _patches(x: Array, width: int) -> Array:
    """Return what the kernel sees at each pixel: ``[N, H, W, K * K * I]``."""
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (width // 2, width // 2), (width // 2, width // 2), (0, 0)))
    return jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(width) for j in range(width)], -1)


def _fold(kernel: Float[Array, "K K I O"], taps: Float[np.ndarray, "K J A a"]) -> Float[Array, "J J C D"]:
    """Return the kernel between blocks that does to their pixels what ``kernel`` does.

    ``taps[k, j, A, a]`` is 1 where, along one axis, tap k leads from pixel A of the block at offset j to pixel a.
    """
    folded = jnp.einsum("klio,kuAa,lvBb->uvABiabo", kernel, taps, taps, precision="highest")
    u, v, A, B, i, a, b, o = folded.shape
    return folded.reshape(u, v, A * B * i, a * b * o)


def _table(
    entries: list[tuple[int, int, int, int]], width: int, inner: int, outer: int
) -> Float[np.ndarray, "K J A a"]:
    """Return taps from entries (tap, block, pixel read, pixel written)."""
    reach = max(abs(block) for _, block, _, _ in entries)
    taps = np.zeros((width, 2 * reach + 1, inner, outer), np.float32)
    for tap, block, inside, outside in entries:
        taps[tap, block + reach, inside, outside] = 1
    return taps


def _pool_taps(width: int) -> Float[np.ndarray, "K J A a"]:
    """Pixel a of a block reads pixel a + k - (K - 1) / 2, which lies in a block of its own."""
    place = lambda a, k: divmod(a + k - (width - 1) // 2, 2)
    return _table([(k, *place(a, k), a) for a in range(2) for k in range(width)], width, 2, 2)


def _stride_taps(width: int) -> Float[np.ndarray, "K J A a"]:
    """With stride two, "SAME" pads (K - 2) / 2 below, rounded down, and the rest above."""
    return _table([(k, *divmod(k - (width - 2) // 2, 2), 0) for k in range(width)], width, 2, 1)


def _repeat_taps(width: int) -> Float[np.ndarray, "K J A a"]:
    """Pixel a reads pixel a + k - (K - 1) / 2 of the enlarged image, which is a copy of the one half as far."""
    block = lambda a, k: (a + k - (width - 1) // 2) // 2
    return _table([(k, block(a, k), 0, a) for a in range(2) for k in range(width)], width, 1, 2)


def _transpose_taps(width: int) -> Float[np.ndarray, "K J A a"]:
    """Between the pixels lie zeros: tap k of pixel a meets one where a + k - (K + 1) / 2, rounded down, is even."""
    distance = lambda a, k: a + k - (width + 1) // 2
    met = [(a, k) for a in range(2) for k in range(width) if distance(a, k) % 2 == 0]
    return _table([(k, distance(a, k) // 2, 0, a) for a, k in met], width, 1, 2)
