"""How long the matrix products of a piece take by themselves, each alone, with nothing between them.

What a piece takes beyond it is what could be won around the products. It is no bound: alike ones could be joined to a
larger one, ones that do not need each other could run side by side, and convolutions of all images at once may be
slower than a few at a time.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from mbrl.bench import timing
from mbrl.bench.flops import Product, products

_CALLS, _SECONDS = 30, 0.5  # of each product, at most


def alone(function: Callable[..., Any], *args: Any) -> float:
    """Return the seconds of all products and convolutions of ``function(*args)``, each timed alone.

    Operands lie in the caches here where a program's own may not. What the call of a compiled function costs is taken
    off; alike ones are timed once.
    """
    often: dict[tuple, int] = collections.Counter()
    kinds: dict[tuple, Product] = {}
    for product in products(function, *args):
        kind = _kind(product)
        often[kind] += product.times
        kinds[kind] = product
    return sum((often[kind] * _seconds(product) for kind, product in kinds.items()), 0.0)


def _kind(product: Product) -> tuple:
    operands = tuple((operand.aval.shape, str(operand.aval.dtype)) for operand in product.equation.invars)
    return product.equation.primitive.name, operands, str(product.equation.params)


def _seconds(product: Product) -> float:
    """Return the median of one time."""
    equation = product.equation
    operands = [jnp.full(operand.aval.shape, 0.5, operand.aval.dtype) for operand in equation.invars]
    bind = lambda *operands: equation.primitive.bind(*operands, **equation.params)
    multiply = timing.compile_once(bind, *operands).call
    scalar = jnp.zeros(())
    nothing = timing.compile_once(lambda x: x + 1.0, scalar).call
    times = timing.in_turn([lambda: multiply(*operands), lambda: nothing(scalar)], _CALLS, _SECONDS)
    whole, call = (float(np.median(each)) for each in times)
    return max(0.0, whole - call)
