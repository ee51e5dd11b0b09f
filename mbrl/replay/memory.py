"""Whether the replay fits into memory, answered before anything compiles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from mbrl.core.errors import UserError
from mbrl.replay import frames
from mbrl.replay.config import ReplayConfig, check_sizes

# The replay may take this share of what is available; the model, its batches and the compiler need the rest.
SHARE = 0.8

# Where a control group says what it may use, what it uses, and how much of that is file cache it can drop:
# version 2, then version 1.
CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def human(size: int | float) -> str:
    """Return a number of bytes for people: ``"512 B"``, ``"1.5 GiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def bytes_needed(config: ReplayConfig, num_envs: int, step: PyTree) -> int:
    """Return the bytes the ring's data takes, wherever it lies.

    Args:
        config: the replay's config.
        num_envs: N, the environments that write side by side.
        step: one step of all of them, leaves ``[N, ...]``; ``jax.ShapeDtypeStruct`` will do.
    """
    return config.capacity // num_envs * _step_bytes(step)


def host_needed(config: ReplayConfig, num_envs: int, step: PyTree) -> int:
    """Return how many of ``bytes_needed`` lie in the host's memory, as the frames of ``replay.frames`` host do."""
    return config.capacity // num_envs * _frame_bytes(config, step)


def check(config: ReplayConfig, num_envs: int, step: PyTree, available: int, main: int | None = None) -> str:
    """Check the replay's numbers and that it fits, and return a line that says what it takes.

    Args:
        config: the replay's config.
        num_envs: N, the environments that write side by side.
        step: one step of all of them, leaves ``[N, ...]``; ``jax.ShapeDtypeStruct`` will do.
        available: free bytes on the device, as ``available_bytes`` finds them.
        main: free bytes of main memory, where the device has a memory of its own; None where the two are one.

    Raises:
        UserError: the numbers do not fit each other, or the replay takes more than ``SHARE`` of ``available``, or its
            frames of ``main``; the sentence then names the largest capacity that does not.
    """
    check_sizes(config, num_envs)
    row, framed = _step_bytes(step), _frame_bytes(config, step)
    if not framed:
        return f"replay: {config.capacity:,} steps in {_fits(config, num_envs, row, available, '')}"
    if main is None:
        line = _fits(config, num_envs, row, available, "")
        return f"replay: {config.capacity:,} steps in {line}, {human(host_needed(config, num_envs, step))} of it frames"
    rest = _fits(config, num_envs, row - framed, available, " on the device")
    apart = _fits(config, num_envs, framed, main, " on the host")
    return f"replay: {config.capacity:,} steps in {rest}, frames in {apart}"


def _fits(config: ReplayConfig, num_envs: int, row: int, available: int, place: str) -> str:
    """Return what rows of so many bytes take there; raises UserError where that is too much."""
    needed, allowed = config.capacity // num_envs * row, int(SHARE * available)
    if needed <= allowed:
        return f"{human(needed)} of the {human(available)} available{place}"
    raise UserError(
        f"replay.capacity {config.capacity} needs {human(needed)}, more than the {human(allowed)} it may take of the "
        f"{human(available)} available{place}; {_advice(config, num_envs, allowed // row)}"
    )


def check_saving(
    config: ReplayConfig, num_envs: int, step: PyTree, copies: int, available: int, *, apart: bool = False
) -> None:
    """Check that main memory has room for what a save needs.

    Args:
        config: the replay's config.
        num_envs: N, the environments that write side by side.
        step: one step of all of them, leaves ``[N, ...]``; ``jax.ShapeDtypeStruct`` will do.
        copies: how often main memory holds the replay while it is saved.
        available: free bytes of main memory.
        apart: the device has a memory of its own, so that frames of ``replay.frames`` host are there once more.

    Raises:
        UserError: it has not; the sentence then names the largest capacity that can be saved.
    """
    framed = _frame_bytes(config, step) if apart else 0
    row = copies * _step_bytes(step) + framed
    needed = config.capacity // num_envs * row
    if needed > available:
        often = f"{copies} times then" + (f", and its frames {copies + 1} times" if framed else "")
        raise UserError(
            f"replay.capacity {config.capacity} needs {human(needed)} of main memory while it is saved, which holds it "
            f"{often}, more than the {human(available)} available; {_advice(config, num_envs, available // row)}"
        )


def _advice(config: ReplayConfig, num_envs: int, rows: int) -> str:
    window = config.batch_length + 1
    if rows >= window:
        return f"replay.capacity {rows * num_envs} would fit"
    return f"not even the {window * num_envs} steps of one sequence per environment would fit"


def available_bytes(device: Any = None) -> int:
    """Return the bytes that can still be allocated on ``device``, a ``jax.Device``, by default this process's first.

    On an accelerator that is its allocator's limit less what is in use. On the CPU it is the machine's available
    memory, or what the process's control groups (containers, batch systems) leave it, if that is less.
    """
    stats = (device or jax.local_devices()[0]).memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return host_bytes(Path("/"))


def host_bytes(root: Path) -> int:
    """Return the bytes of main memory that can still be allocated, reading ``proc`` and ``sys`` under ``root``."""
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():  # no Linux: all there is, for want of better
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = _fields(meminfo)["MemAvailable:"] * 1024
    return min([available, *_cgroup_bytes(root)])


def _step_bytes(step: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(step))


def _frame_bytes(config: ReplayConfig, step: PyTree) -> int:
    """Return the bytes of one step, of all environments, that lie in the host's memory."""
    if config.frames == "device":
        return 0
    framed = jax.tree.map(lambda apart, leaf: _step_bytes(leaf) if apart else 0, frames.where(step), step)
    return sum(jax.tree.leaves(framed))


def _cgroup_bytes(root: Path) -> Iterator[int]:
    """Yield what each control group around this process, its own and those above it, still allows."""
    for group in _cgroups(root):
        for limit, usage, cache in CGROUP_FILES:
            if not (group / limit).exists():
                continue
            allowed = (group / limit).read_text().strip()
            if allowed != "max":
                used = int((group / usage).read_text()) - _fields(group / "memory.stat").get(cache, 0)
                yield max(0, int(allowed) - used)


def _cgroups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups that may limit memory, from the inside out."""
    own = root / "proc/self/cgroup"
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            top = root / "sys/fs/cgroup" / controllers
            inner = top / path.lstrip("/")
            yield from (group for group in (inner, *inner.parents) if group.is_relative_to(top))


def _fields(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    return {name: int(number) for name, number, *_ in map(str.split, path.read_text().splitlines())}
