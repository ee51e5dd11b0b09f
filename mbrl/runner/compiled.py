"""Compiling ahead of use, and what a compiled program says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple


class Footprint(NamedTuple):
    """Bytes of one call of a compiled program, on each device."""

    held: int  # its arguments, which are there before it runs
    peak: int  # arguments, results and temporaries at once, what is donated counted once


def footprint(compiled: Any) -> Footprint:
    """Return what a compiled function will take, as XLA planned it; nothing needs to run for that."""
    memory = compiled.memory_analysis()
    size = lambda name: getattr(memory, f"{name}_size_in_bytes", 0)
    held = size("argument")
    return Footprint(held, held + size("output") + size("temp") - size("alias"))


class Compiled(NamedTuple):
    """A function ready to run on arguments of given shapes."""

    call: Callable[..., Any]
    seconds: float  # to trace and to compile
    footprint: Footprint


def compile_for(function: Any, *args: Any) -> Compiled:
    """Trace and compile a jitted function for ``args``, which may be ``jax.ShapeDtypeStruct``."""
    begin = time.perf_counter()
    call = function.lower(*args).compile()
    return Compiled(call, time.perf_counter() - begin, footprint(call))


def compile_beside(function: Any, *args: Any) -> Future[Compiled]:
    """Begin ``compile_for`` in a thread of its own; what it raises is raised where its result is asked for."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
    try:
        return pool.submit(compile_for, function, *args)
    finally:
        pool.shutdown(wait=False)
