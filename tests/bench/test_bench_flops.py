import jax
import jax.numpy as jnp
import pytest

from mbrl.bench import products
from mbrl.bench.flops import count

A, B = jnp.ones((2, 3)), jnp.ones((3, 4))
PRODUCT = 2 * 2 * 3 * 4


def repeated(length):
    return lambda a, b: jax.lax.scan(lambda c, _: (c, a @ b), 0.0, None, length)


@pytest.mark.parametrize(
    ("function", "times"),
    [
        (lambda a, b: a @ b, 1),
        (jax.jit(lambda a, b: a @ b), 1),
        (lambda a, b: a.sum() + b.sum(), 0),
        (repeated(7), 7),
        (lambda a, b: jax.lax.scan(lambda c, _: (c, repeated(3)(a, b)), 0.0, None, 2), 6),
        (lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: a @ b + a @ b), 2),
        # The gradient of a product is a product for each side. A checkpoint does the first again: that is one more only
        # if its value is wanted too, for otherwise the first time is for nothing.
        (lambda a, b: jax.grad(lambda a, b: jnp.square(a @ b).sum(), (0, 1))(a, b), 3),
        (lambda a, b: jax.grad(jax.checkpoint(lambda a, b: jnp.square(a @ b).sum()), (0, 1))(a, b), 3),
        (lambda a, b: jax.value_and_grad(jax.checkpoint(lambda a, b: jnp.square(a @ b).sum()), (0, 1))(a, b), 4),
        (lambda a, b: jax.vmap(lambda row: row @ b)(a), 1),
        # What nobody uses is not done: here, and inside a loop.
        (lambda a, b: (a @ b, a @ b + 1)[0], 1),
        (lambda a, b: jax.lax.scan(lambda c, _: (c, (a @ b, b.T @ a.T)), 0.0, None, 5)[1][0], 5),
    ],
)
def test_products_are_counted_as_often_as_they_run(function, times):
    assert count(function, A, B) == times * PRODUCT


def test_a_batched_product():
    assert count(lambda x, y: jnp.einsum("gij,gjk->gik", x, y), jnp.ones((5, 2, 3)), jnp.ones((5, 3, 4))) == 5 * PRODUCT


def test_products_by_themselves_are_timed_once_a_kind_and_summed_as_often_as_they_run(monkeypatch):
    """Each takes as many seconds as it has operations: then the sum is what is counted."""
    timed = []

    def seconds(product):
        timed.append(product)
        return float(product.operations)

    monkeypatch.setattr(products, "_seconds", seconds)
    chain = lambda a, b: jax.lax.scan(lambda c, _: (c, (a @ b, (a + 1) @ b, a.T @ a)), 0.0, None, 7)
    assert products.alone(chain, A, B) == count(chain, A, B) == 7 * (2 * PRODUCT + 2 * 3 * 2 * 3)
    assert len(timed) == 2


def test_a_product_by_itself_takes_as_long_as_it_takes():
    """More operations take longer, here of a product and of a convolution; where there is neither it takes no time."""
    small, large = jnp.ones((8, 8)), jnp.ones((512, 512))
    assert 0 <= products.alone(lambda x: x @ x, small) < products.alone(lambda x: x @ x, large)
    image, kernel = jnp.ones((16, 64, 64, 8)), jnp.ones((3, 3, 8, 8))
    layout = ("NHWC", "HWIO", "NHWC")
    convolve = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout)
    assert products.alone(convolve, image, kernel) > products.alone(convolve, image[:1, :8, :8], kernel) >= 0
    assert products.alone(lambda x: x.sum(), image) == 0
