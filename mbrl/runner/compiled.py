"""Compiling ahead of use, and what a compiled program says of itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax


class Footprint(NamedTuple):
    """Bytes of one call of a compiled program, on each device; on a CPU, whose devices share its memory, on all."""

    held: int  # its arguments, which are there before it runs
    peak: int  # arguments, results and temporaries at once, what is donated counted once
    host: int = 0  # as ``peak``, what an accelerator has in the host's memory; a CPU counts it with the rest


def footprint(compiled: Any) -> Footprint:
    """Return what a compiled function will take, as XLA planned it; nothing needs to run for that."""
    memory = compiled.memory_analysis()
    size = lambda name: getattr(memory, f"{name}_size_in_bytes", 0)
    here = compiled.runtime_executable().local_devices()
    times = len(here) if here[0].platform == "cpu" else 1
    peak = lambda kind: size(f"{kind}argument") + size(f"{kind}output") + size(f"{kind}temp") - size(f"{kind}alias")
    return Footprint(times * size("argument"), times * peak(""), times * peak("host_"))


def options(level: int = 1) -> dict[str, Any]:
    """Return XLA's options for a program: on a CPU LLVM's optimisation level, if the user has not set it.

    Level 1 compiles in two thirds to four fifths of the time of the usual 3 and is as fast to run, to 3 %; level 0 is
    for what runs once.
    """
    asked = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
    return {} if asked or jax.default_backend() != "cpu" else {"xla_backend_optimization_level": level}


class Compiled(NamedTuple):
    """A function ready to run on arguments of given shapes."""

    call: Callable[..., Any]
    seconds: float  # to trace and to compile
    footprint: Footprint


def compile_for(function: Any, *args: Any) -> Compiled:
    """Trace and compile a jitted function for ``args``, which may be ``jax.ShapeDtypeStruct``."""
    begin = time.perf_counter()
    call = function.lower(*args).compile(compiler_options=options())
    return Compiled(call, time.perf_counter() - begin, footprint(call))


def compile_beside(function: Any, *args: Any) -> Future[Compiled]:
    """Begin ``compile_for`` in a thread of its own; what it raises is raised where its result is asked for."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
    try:
        return pool.submit(compile_for, function, *args)
    finally:
        pool.shutdown(wait=False)
