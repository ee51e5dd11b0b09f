"""What a compiled program says of itself."""

from __future__ import annotations

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
