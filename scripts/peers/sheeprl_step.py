"""Times one train step of sheeprl's DreamerV3, its own ``train`` on its own agent, on random experience.

Prints one JSON line: for each of the variants ``ms`` (median), ``ms_min``, ``calls``, ``warmup_s``, ``gflop`` (of
matrix products), ``threads`` and ``parameters``, or ``error``; and ``versions``. Runs in the peer's own environment,
without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

# What `torch.compile` made is there for the next round, as an installation is; before torch is imported.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(sys.prefix) / "inductor")

import torch
from sheeprl_agents import AGENTS, Trained
from torch.utils.flop_counter import FlopCounterMode

VARIANTS = {"dreamer_v3": False, "dreamer_v3_5": False, "dreamer_v3_5 compiled": True}


def main(argv: list[str]) -> int:
    """Time the variants and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=15, help="at most, of each")
    parser.add_argument("--seconds", type=float, default=30.0, help="call no more after this long")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args(argv)
    result: dict[str, Any] = {}
    for name in args.variants:
        try:
            trained = AGENTS[name.split()[0]](VARIANTS[name])
            result[name] = timed(trained, args.calls, args.seconds, count=not VARIANTS[name])
        except Exception as error:  # noqa: BLE001 - what goes wrong in a peer's code is that variant's result
            # A compilation that was stopped leaves half a file, which every later one would meet.
            shutil.rmtree(os.environ["TORCHINDUCTOR_CACHE_DIR"], ignore_errors=True)
            result[name] = {"error": f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"}
        sys.stderr.write(f"{name}: {result[name]}\n")
    names = ("sheeprl", "torch", "lightning", "numpy", "gymnasium")
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
    sys.stdout.write(json.dumps(result | {"versions": versions}) + "\n")
    return 0


def timed(trained: Trained, calls: int, seconds: float, *, count: bool) -> dict[str, Any]:
    """Call the step again and again after some calls to warm up; the median counts."""
    begin = time.perf_counter()
    trained.step()
    threads = fastest(trained.step)
    warmup = time.perf_counter() - begin
    operations = gflop(trained.step) if count else None
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < calls and (len(times) < 3 or time.perf_counter() < end):
        times.append(1e3 * once(trained.step))
    return {"ms": statistics.median(times), "ms_min": min(times), "calls": len(times), "warmup_s": warmup,
            "gflop": operations, "threads": threads, "parameters": trained.parameters}


def fastest(step: Callable[[], Any]) -> int:
    """Set and return the number of PyTorch's threads that is faster, one or a core each.

    One is what sheeprl sets itself, and small products on a busy machine wait for each other when there are more.
    """
    seconds: dict[int, float] = {}
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(threads)
        seconds[threads] = once(step)
        if seconds[threads] < 3 * seconds[1]:  # else threads wait for each other, and more calls would take minutes
            seconds[threads] = min(once(step), once(step))
    best = min(seconds, key=lambda threads: seconds[threads])
    torch.set_num_threads(best)
    sys.stderr.write(f"seconds by threads: {seconds}\n")
    return best


def once(step: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def gflop(step: Callable[[], Any]) -> float:
    """Return the operations of all matrix products of one step, in units of 10⁹."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
