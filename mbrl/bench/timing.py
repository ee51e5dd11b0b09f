"""Milliseconds of a compiled function, and what the machine could do at best."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl.core import heap
from mbrl.runner.compiled import Compiled, compile_for

Run = Callable[[], Any]


def compile_once(function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Compiled:
    """Trace and compile ``function`` for ``args``."""
    return compile_for(jax.jit(function, donate_argnums=donate), *args)


def in_turn(runs: Sequence[Run], repeats: int, seconds: float) -> list[np.ndarray]:
    """Time several functions in turn, so that what else the machine does falls on all of them alike.

    Args:
        runs: each does its work once and returns arrays to wait for. The first round is not counted.
        repeats: rounds at most.
        seconds: stop after this long, but not before three rounds.

    Returns:
        for each the seconds of every round.
    """
    for run in runs:
        jax.block_until_ready(run())
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < repeats and (len(rounds) < 3 or time.perf_counter() < end):
        rounds.append([_once(run) for run in runs])
    return list(np.array(rounds).T)


def _once(run: Run) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begin


def peak_bytes(run: Run, resident: int) -> int | None:
    """Return the bytes that a call of ``run`` had in use at once at most; None where nobody can tell.

    On an accelerator the allocator knows. Otherwise it is what the process's memory grew by while it ran (Linux).

    Args:
        run: does its work once and returns arrays to wait for.
        resident: bytes of its arguments, which are there already.
    """
    device = jax.local_devices()[0]
    if device.memory_stats():
        jax.block_until_ready(run())
        return (device.memory_stats() or {}).get("peak_bytes_in_use")
    try:
        heap.hand_back()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
        before = _resident("VmRSS")
        jax.block_until_ready(run())
        return _resident("VmHWM") - before + resident
    except OSError:
        return None


def _resident(name: str) -> int:
    """Return a figure of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def matrix_peak(size: int = 2048, repeats: int = 10) -> float:
    """Return the floating-point operations a second of the best of several square matrix products in float32."""
    left = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(lambda x: jnp.dot(x, x))
    best = min(in_turn([lambda: multiply(left)], repeats, 20.0)[0])
    return 2 * size**3 / float(best)
