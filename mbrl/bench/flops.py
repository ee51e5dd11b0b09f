"""Floating-point operations of matrix products and convolutions, counted from shapes.

XLA's own count takes a scan's body once, whatever its length; here the traced program is walked and a scan counts as
often as it runs. Only these count: they are what a machine's peak is measured in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.interpreters import partial_eval


class Product(NamedTuple):
    """A matrix product or convolution of a traced program."""

    equation: Any  # of the program
    times: int  # it runs

    @property
    def operations(self) -> int:
        """Multiplications and additions of one time."""
        output, params = math.prod(self.equation.outvars[0].aval.shape), self.equation.params
        if self.equation.primitive.name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = self.equation.invars[0].aval.shape
            return 2 * output * math.prod(left[axis] for axis in contracted)
        kernel = self.equation.invars[1].aval.shape
        return 2 * output * math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]


def products(function: Callable[..., Any], *args: Any) -> list[Product]:
    """Return all products and convolutions that ``function(*args)`` does.

    A branch has those of its dearest alternative. A ``fori_loop`` whose bounds are known when it is traced is a scan;
    any other is a ``while`` loop, whose length nobody knows, and runs once. What is traced and never used is left out.
    """
    whole = jax.make_jaxpr(function)(*args).jaxpr
    used, _ = partial_eval.dce_jaxpr(whole, [True] * len(whole.outvars))
    return list(_walk(used, 1))


def count(function: Callable[..., Any], *args: Any) -> int:
    """Return the multiplications and additions of all ``products`` of ``function(*args)``."""
    return _sum(products(function, *args))


def _sum(found: Iterable[Product]) -> int:
    return sum(product.times * product.operations for product in found)


def _walk(jaxpr: core.Jaxpr, times: int) -> Iterator[Product]:
    """Yield the products of a program that runs ``times``."""
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            yield Product(equation, times)
            continue
        often = times * (params["length"] if name == "scan" else 1)
        inside = [list(_walk(program, often)) for program in _inside(params)]
        if name == "cond":
            inside = [max(inside, key=_sum, default=[])]
        for found in inside:
            yield from found


def _inside(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yield the programs inside an equation."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part
