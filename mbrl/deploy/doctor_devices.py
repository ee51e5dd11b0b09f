"""A small program on each kind of device that JAX finds, beside NumPy; printed as JSON by a process of its own."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def try_all() -> list[dict[str, Any]]:
    """Return a row for each platform: how many devices of which kind, seconds, and the largest error."""
    return [_try(platform) for platform in _platforms()]


def _platforms() -> list[str]:
    default = jax.devices()[0].platform
    # The host's own processor is always there, but for where somebody has switched it off.
    try:
        return list(dict.fromkeys([default, jax.devices("cpu")[0].platform]))
    except RuntimeError:
        return [default]


def _try(platform: str) -> dict[str, Any]:
    devices = jax.devices(platform)
    x = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    begin = time.perf_counter()
    with jax.default_device(devices[0]):
        got = np.asarray(jax.jit(lambda x: jnp.tanh(jnp.dot(x, x.T, precision="highest")).sum(-1))(jnp.asarray(x)))
    seconds = time.perf_counter() - begin
    wanted = np.tanh(x.astype(np.float64) @ x.T.astype(np.float64)).sum(-1)
    return {"platform": platform, "kind": devices[0].device_kind, "count": len(devices), "seconds": seconds,
            "error": float(np.abs(got - wanted).max())}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(try_all()) + "\n")
