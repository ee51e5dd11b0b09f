"""The cores of a CPU, as far as this process may use them. Knows no JAX: `mbrl doctor` asks where JAX may be broken."""

from __future__ import annotations

import os


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
