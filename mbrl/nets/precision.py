"""In which floating-point numbers networks multiply matrices; everything else is float32 whatever it is.

A product of bfloat16 numbers that is summed in float32 is what accelerators, and CPUs with matrix units, do fastest,
and nearly all the work is products. Norms, activations, gates and losses gain little from half precision and lose most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core.errors import UserError, unknown

Precision: TypeAlias = Literal["f32", "bf16"]

_DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
# The first NVIDIA chips that multiply bfloat16 (Ampere).
_LEAST_CAPABILITY = 8.0

def dtype_of(precision: str) -> Any:
    """Return the dtype of the numbers that networks multiply.

    Raises:
        UserError: no such precision, or one that the device lacks.
    """
    if precision not in _DTYPES:
        raise unknown("agent.precision", precision, get_args(Precision))
    device = jax.devices()[0]
    capability = getattr(device, "compute_capability", None)
    if precision == "bf16" and capability is not None and float(capability) < _LEAST_CAPABILITY:
        raise UserError(
            f"agent.precision is 'bf16', which {device.device_kind} (compute capability {capability}) lacks; take f32"
        )
    return _DTYPES[precision]


def multiply_in(dtype: Any) -> Callable[..., Array]:
    """Return a ``dot_general`` for ``flax.linen.Dense`` that multiplies numbers of ``dtype``; see ``product``."""
    if dtype == jnp.float32:
        return jax.lax.dot_general

    def dot_general(x: Array, kernel: Array, dimension_numbers: Any, **_: Any) -> Array:
        assert dimension_numbers == (((x.ndim - 1,), (0,)), ((), ())), dimension_numbers
        return product(x, kernel, dtype)

    return dot_general


def product(x: Float[Array, "*N I"], kernel: Float[Array, "I O"], dtype: Any) -> Float[Array, "*N O"]:
    """Return ``x @ kernel``, float32 in and out; of numbers rounded to ``dtype`` that are summed in float32.

    The same holds for the two products of its gradient (Micikevicius et al. 2018, "Mixed Precision Training"; Kalamkar
    et al. 2019 for bfloat16, whose range is float32's, so that no loss is scaled).
    """
    return x @ kernel if dtype == jnp.float32 else _rounded(x, kernel)


# Left to itself, the gradient's products would have one rounded factor and one float32, which no machine multiplies
# faster.
@jax.custom_vjp
def _rounded(x: Array, kernel: Array) -> Array:
    return _rounded_forward(x, kernel)[0]


def _rounded_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return _contract(x, kernel, (x.ndim - 1,), (0,)), (x, kernel)


def _rounded_backward(factors: tuple[Array, Array], out: Array) -> tuple[Array, Array]:
    x, kernel = factors
    out = out.astype(jnp.bfloat16)
    lead = tuple(range(x.ndim - 1))
    return _contract(out, kernel, (x.ndim - 1,), (1,)), _contract(x, out, lead, lead)


def _contract(left: Array, right: Array, left_axes: tuple[int, ...], right_axes: tuple[int, ...]) -> Array:
    return jax.lax.dot_general(left, right, ((left_axes, right_axes), ((), ())), preferred_element_type=jnp.float32)


_rounded.defvjp(_rounded_forward, _rounded_backward)
