"""In which floating-point numbers networks compute; parameters, states and losses are float32 whatever it is."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypeVar, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mbrl.core.errors import UserError, unknown
from mbrl.core.types import Params

Precision: TypeAlias = Literal["f32", "bf16"]

_DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
# The first NVIDIA chips that multiply bfloat16 (Ampere).
_LEAST_CAPABILITY = 8.0

Tree = TypeVar("Tree")


def dtype_of(precision: str) -> Any:
    """Return the dtype networks compute in.

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


def cast(tree: Tree, dtype: Any) -> Tree:
    """Return the tree with its floating-point arrays in ``dtype``; whatever else is in it stays as it is."""

    def one(x: Any) -> Any:
        floating = isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.asarray(x, dtype) if floating else x

    return jax.tree.map(one, tree)


def run(net: nn.Module, params: Params, *inputs: Any, dtype: Any) -> Any:
    """Return what a network makes of its inputs: float32 in and out, ``dtype`` between.

    Norms take their means in float32 all the same.
    """
    return cast(net.apply({"params": cast(params, dtype)}, *cast(inputs, dtype)), jnp.float32)
