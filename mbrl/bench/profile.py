"""Where the time of a compiled function goes: a trace for Perfetto and the costliest operations."""

from __future__ import annotations

import collections
import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

CALLS = 3  # traced
COSTLIEST = 10


def trace(run: Callable[[], Any], folder: Path) -> dict[str, Any]:
    """Trace a few calls.

    Args:
        run: does its work once and returns arrays to wait for.
        folder: gets the trace, `perfetto_trace.json.gz` somewhere below it, and `costliest.md`.

    Returns:
        the trace's file and the costliest operations with their milliseconds a call.
    """
    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        for _ in range(CALLS):
            jax.block_until_ready(run())
    file = max(folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    costs: dict[str, float] = collections.defaultdict(float)
    for name, seconds in _operations(file):
        costs[name] += seconds / CALLS
    dearest = sorted(costs, key=lambda name: -costs[name])[:COSTLIEST]
    top = {name: round(costs[name] * 1e3, 3) for name in dearest}
    lines = ["| operation | ms a call |", "|---|---|", *(f"| `{name}` | {cost} |" for name, cost in top.items())]
    (folder / "costliest.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"trace": str(file), "costliest": top}


def _operations(file: Path) -> Iterator[tuple[str, float]]:
    """Yield (operation, seconds) of the compiled program's own events, alike ones under one name.

    An operation that holds others, as a loop does, is left out: its parts are there themselves.
    """
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    for event in events:
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {}):
            name = re.sub(r"[.\d]+$", "", event["name"])
            if name not in {"while", "call", "conditional"}:
                yield name, event["dur"] / 1e6
