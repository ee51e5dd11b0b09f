"""How long the matrix products of a piece take by themselves, each alone, with nothing between them.

No other arrangement of the same products is faster than that, whatever is fused, hoisted or left out around them: what
a piece takes beyond it is what could be won without faster products.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl.bench import timing
from mbrl.bench.flops import Product, products

_CALLS, _SECONDS = 30, 0.5  # of each product, at most


def alone(function: Callable[..., Any], *args: Any) -> float:
    """Return the seconds of all products and convolutions of ``function(*args)``, each timed alone.

    Operands lie in the caches here where a program's own may not, so this is rather too little than too much. What the
    call of a compiled function costs is taken off; alike ones are timed once.
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
    multiply = jax.jit(lambda *operands: equation.primitive.bind(*operands, **equation.params))
    operands = [jnp.full(operand.aval.shape, 0.5, operand.aval.dtype) for operand in equation.invars]
    nothing, scalar = jax.jit(lambda x: x + 1.0), jnp.zeros(())
    times = timing.in_turn([lambda: multiply(*operands), lambda: nothing(scalar)], _CALLS, _SECONDS)
    whole, call = (float(np.median(each)) for each in times)
    return max(0.0, whole - call)
