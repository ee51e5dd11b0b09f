"""What becomes of memory that this process has freed, by glibc (another C library is left alone), and of cycles."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from typing import Any

# Names of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEPT: list[bool] = []  # not empty while `cycles_kept` is what keeps Python from looking for cycles


def hand_back() -> bool:
    """Hand what is free back to the system, of all threads' arenas; return whether there was any.

    There is no limit to the number of arenas (``M_ARENA_MAX``), though a run's saves pass through dozens of threads:
    with this after each of them memory does not grow, and a limit makes XLA's threads share an arena with the compiler,
    which leaves it in thousands of pieces. Looking through these for room took a third of the time of updates from
    pictures.
    """
    return bool(_call("malloc_trim", 0))


def keep_freed() -> bool:
    """Let freed memory stay with the process instead; return whether that could be done.

    A program's temporaries are allocated at every call. Within a training run, whose updates are one loop in one
    program, that happens once for hundreds of updates; a single update that is called by itself would each time wait
    for the kernel to map hundreds of MiB anew.
    """
    return bool(_call("mallopt", _M_MMAP_MAX, 0) and _call("mallopt", _M_TRIM_THRESHOLD, 2**31 - 1))


@contextlib.contextmanager
def cycles_kept() -> Iterator[None]:
    """Look for no unreachable cycles until ``collect_cycles`` is called or the block ends.

    Importing, tracing and lowering make very many objects, almost all of which stay: looking through them took a
    seventh of the time to the first update.
    """
    if not gc.isenabled():  # as the user or an outer block has it
        yield
        return
    gc.disable()
    _KEPT.append(True)
    try:
        yield
    finally:
        collect_cycles()


def collect_cycles() -> bool:
    """Look for unreachable cycles again, if that was put off; return whether it was."""
    was = bool(_KEPT)
    _KEPT.clear()
    if was:
        gc.enable()
    return was


def _call(name: str, *numbers: int) -> Any:
    """Return what a function of the C library says; 0 where it has none of that name."""
    try:
        return getattr(ctypes.CDLL(None), name)(*numbers)
    except (AttributeError, OSError):
        return 0
