"""The folded convolutions against the same things said plainly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mbrl.nets import convolution
from mbrl.nets.convolution import convolve, double, halve, in_chunks, to_channels, to_pixels

LAYOUT = ("NHWC", "HWIO", "NHWC")
ODD = [3, 5, 7]


def plain(x, kernel, stride=1):
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT)


def drawn(width, inputs=2, outputs=3):
    keys = jax.random.split(jax.random.key(width))
    x = jax.random.normal(keys[0], (2, 8, 12, inputs))
    return x, jax.random.normal(keys[1], (width, width, inputs, outputs))


def close(one, two):
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("width", ODD)
def test_halving_takes_the_maximum_of_each_block(width):
    x, kernel = drawn(width)
    pooled = lax.reduce_window(plain(x, kernel), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    close(halve(x, kernel, "pool"), pooled)


@pytest.mark.parametrize("width", [*ODD, 2, 4])
def test_halving_by_a_stride(width):
    x, kernel = drawn(width)
    close(halve(x, kernel, "stride"), plain(x, kernel, 2))


@pytest.mark.parametrize("width", ODD)
def test_doubling_repeats_pixels(width):
    x, kernel = drawn(width)
    close(double(x, kernel, "pool"), plain(x.repeat(2, 1).repeat(2, 2), kernel))


@pytest.mark.parametrize("width", [*ODD, 2, 4])
def test_doubling_by_a_transpose(width):
    x, kernel = drawn(width)
    close(double(x, kernel, "stride"), lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=LAYOUT))


def test_blocks_become_channels_row_by_row():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(to_channels(image)[0, 0, 1], [2, 3, 6, 7])
    np.testing.assert_array_equal(to_pixels(to_channels(image)), image)


@pytest.mark.parametrize("width", [1, *ODD])
def test_the_gradient_is_the_convolutions(width):
    x, kernel = drawn(width)
    out = jax.random.normal(jax.random.key(9), (2, 8, 12, 3))
    ours = jax.vjp(convolve, x, kernel)[1](out)
    theirs = jax.vjp(plain, x, kernel)[1](out)
    for one, two in zip(ours, theirs, strict=True):
        close(one, two)


@pytest.mark.parametrize("count", [8, 4, 7])  # two chunks, one, and a number that does not divide
def test_chunks_change_nothing(count):
    x, kernel = jax.random.normal(jax.random.key(0), (count, 4, 4, 2)), drawn(3)[1]

    def loss(kernel, chunk):
        return jnp.square(in_chunks(lambda x: convolve(x, kernel), x, chunk)).sum()

    for one, two in zip(jax.value_and_grad(loss)(kernel, 4), jax.value_and_grad(loss)(kernel, 100), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


def test_elsewhere_than_on_a_cpu_it_is_the_compilers_convolution(monkeypatch):
    x, kernel = drawn(3)
    trace = lambda: str(jax.make_jaxpr(lambda x: in_chunks(lambda x: convolve(x, kernel), x, 1))(x))
    assert "custom_vjp" in trace()
    assert "scan" in trace()
    pooled = halve(x, kernel, "pool")
    monkeypatch.setattr(convolution.jax, "default_backend", lambda: "gpu")
    assert "custom_vjp" not in trace()
    assert "scan" not in trace()
    close(convolve(x, kernel), plain(x, kernel))
    close(halve(x, kernel, "pool"), pooled)
