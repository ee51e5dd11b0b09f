"""Reading and drawing images written plainly, with the parameters of the fast networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mbrl.core.distributions import Distribution
from mbrl.core.types import Params
from mbrl.nets.images import ImageDecoder, ImageEncoder, for_all, normed

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def see(net: ImageEncoder, params: Params, image: Array) -> Float[Array, "*N F"]:
    """Return the token of images ``[*N, H, W, C]``: convolve, take the maximum of four, norm."""
    most = 1 if net.picture.binary else 255
    x: Any = image.reshape((-1, *net.picture.shape)).astype(jnp.float32) / most - 0.5
    for number in range(len(net.picture.depths)):
        x = _convolve(x, params[f"kernel_{number}"], 1 if net.config.sampling == "pool" else 2)
        x = x + for_all(params[f"bias_{number}"], x)
        if net.config.sampling == "pool":
            x = jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = normed(x, params[f"scale_{number}"])
    return x.reshape((*image.shape[:-3], -1))


def draw(net: ImageDecoder, params: Params, deter: Array, stoch: Array) -> Distribution:
    """Return the distribution of images: double by repeating pixels, convolve, norm."""
    smallest: Any = net.apply({"params": params}, deter, stoch, method="smallest")
    x = normed(smallest.reshape((-1, *net.picture.inner)), params["scale_0"])
    for number in range(len(net.picture.depths)):
        if net.config.sampling == "pool":
            x = _convolve(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), params[f"kernel_{number}"], 1)
        else:
            kernel = params[f"kernel_{number}"]
            x = jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=_LAYOUT)
        x = x + for_all(params[f"bias_{number}"], x)
        if f"scale_{number + 1}" in params:
            x = normed(x, params[f"scale_{number + 1}"])
    return net.distribution(x.reshape((*deter.shape[:-1], *net.picture.shape)))


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=_LAYOUT)
