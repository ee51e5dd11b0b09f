"""Floating-point operations of matrix products and convolutions, counted from shapes.

XLA's own count takes a scan's body once, whatever its length; here the traced program is walked and a scan counts as
often as it runs. Only these count: they are what a machine's peak is measured in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval


def count(function: Callable[..., Any], *args: Any) -> int:
    """Return the multiplications and additions of all products and convolutions that ``function(*args)`` does.

    A branch counts as its dearest alternative. A ``fori_loop`` whose bounds are known when it is traced is a scan; any
    other is a ``while`` loop, whose length nobody knows, and counts once. What is traced and never used does not count.
    """
    whole = jax.make_jaxpr(function)(*args).jaxpr
    used, _ = partial_eval.dce_jaxpr(whole, [True] * len(whole.outvars))
    return _walk(used)


def _walk(jaxpr: core.Jaxpr) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        inner = math.prod(left[axis] for axis in contracted)
        return 2 * math.prod(equation.outvars[0].aval.shape) * inner
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = params["dimension_numbers"].rhs_spec[0]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[outputs]
    inside = [_walk(jaxpr) for jaxpr in _inside(params)]
    if name == "scan":
        return params["length"] * sum(inside)
    return max(inside, default=0) if name == "cond" else sum(inside)


def _inside(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yield the programs inside an equation."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part
