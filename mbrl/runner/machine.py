"""Which machine a run was on, as its seconds mean nothing without it."""

from __future__ import annotations

import platform
from pathlib import Path

import jax

from mbrl.core.cores import cores
from mbrl.runner.files import write_atomic
from mbrl.runner.rundir import RunDir


def describe() -> str:
    """Return the accelerators, or else the processor, and the cores that this process may use."""
    devices, count = jax.devices(), cores()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}, {count} cores"
    return f"{_processor()}, {count} core{'s' * (count != 1)}"


def note(run: RunDir) -> None:
    """Add this machine to those that a run's folder says it was on."""
    known, here = machines(run), describe()
    if here not in known:
        write_atomic(run.machines, "".join(f"{line}\n" for line in (*known, here)))


def machines(run: RunDir) -> list[str]:
    """Return the machines that a run was on, in order; none where it was not noted."""
    file = run.machines
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
