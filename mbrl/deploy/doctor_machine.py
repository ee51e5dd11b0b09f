"""The machine itself, without JAX: cores, memory, disks, settings.

Each check yields tuples of status, name, what is said, and what to do where something is to be done.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from mbrl.core.cores import cores as allowed_cores

Status: TypeAlias = Literal["ok", "warn", "fail"]
Lines: TypeAlias = Iterator[tuple[Status, str, str] | tuple[Status, str, str, str]]

_GIB = 2**30
# Settings that are there for looking for faults, or that a shell was left with, and what each does to a run.
_HARMFUL = {
    "JAX_DISABLE_JIT": "nothing is compiled, so a run takes for ever",
    "JAX_DEBUG_NANS": "every operation waits for its result to be looked at",
    "JAX_CHECK_TRACER_LEAKS": "tracing takes many times as long",
    "JAX_ENABLE_X64": "numbers have 64 bits, which is slower and not what was tested",
    "JAX_LOG_COMPILES": "every compilation is printed",
}
_OFF = {"", "0", "false", "no", "off"}
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_WINDOWS = ("tk", "qt", "gtk", "wx", "macosx")  # matplotlib's backends that open some


def cores() -> Lines:
    """Yield how many cores this process may use."""
    allowed = allowed_cores()
    load = os.getloadavg()[0]
    told = f"{allowed} of {os.cpu_count()}, on which {load:.1f} programs run"
    if load > 1.5 * allowed:
        yield "warn", "cores", told, "others are at work here: what is timed now means little"
    else:
        yield "ok", "cores", told


def memory() -> Lines:
    """Yield how much memory is to be had, within a container's bound."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        yield "ok", "memory", "not known on this system"
        return
    lines = dict(line.split(":", 1) for line in info.read_text(encoding="ascii").splitlines() if ":" in line)
    total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    bound, used = _cgroup("memory.max"), _cgroup("memory.current")
    if bound is not None and bound < total:
        total, free = bound, min(free, bound - (used or 0))
    told = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free < 0.75 * _GIB:
        yield "fail", "memory", told, "a run of the smallest size needs about 1 GiB: end what else is running"
    elif free < 3 * _GIB:
        yield "warn", "memory", told, "enough for sizes nano and 1m; take a smaller replay.capacity"
    else:
        yield "ok", "memory", told


def disk(name: str, folder: Path) -> Lines:
    """Yield how much room there is for a folder, and whether it can be written in."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    told, label = f"{free / _GIB:.1f} GiB free in {folder}", f"disk of {name}"
    needed: str = "fail" if name == "runs" else "warn"  # without a cache a run only starts later
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
    except OSError as error:
        yield needed, label, f"{folder} cannot be written in: {error.strerror}", "choose another, or mend its rights"
        return
    if free < _GIB / 2:
        yield needed, label, told, "make room: a save of size 1m with its replay takes some 100 MB"
    elif free < 5 * _GIB:
        yield "warn", label, told, "large replays and films may not fit"
    else:
        yield "ok", label, told


def compile_cache(folder: Path) -> Lines:
    """Yield what the cache of compiled programs holds."""
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in _OFF:
        yield ("warn", "compile cache", "switched off by JAX_ENABLE_COMPILATION_CACHE",
               "every start compiles everything anew: unset it")
        return
    sizes = [entry.stat().st_size for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []
    yield "ok", "compile cache", f"{len(sizes)} programs, {sum(sizes) / 2**20:.0f} MiB, in {folder}"


def shared_memory() -> Lines:
    """Yield how large /dev/shm is, by which processes hand arrays to one another."""
    path = Path("/dev/shm")
    if not path.is_dir():
        yield "ok", "/dev/shm", "there is none; mbrl itself does without"
        return
    size = shutil.disk_usage(path).total
    told = f"{size / _GIB:.2f} GiB"
    if size < _GIB:
        yield "warn", "/dev/shm", told, "enough for mbrl; Ray and data loaders want more: docker run --shm-size=2g"
    else:
        yield "ok", "/dev/shm", told


def clock() -> Lines:
    """Yield whether the clock can be right: files of this package are not from the future."""
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < Path(__file__).stat().st_mtime - 60:
        yield ("warn", "clock", f"{told}, which is before this package was installed",
               "set the clock: folders and saves are named and told apart by it")
    else:
        yield "ok", "clock", told


def files() -> Lines:
    """Yield how many files may be open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        yield "warn", "open files", f"at most {hard}", "enough to train; `mbrl serve` has one per client: ulimit -n"
    else:
        yield "ok", "open files", "as many as there is need for"


def loopback() -> Lines:
    """Yield whether a program here can listen on this machine's own address."""
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
    except OSError as error:
        yield "warn", "loopback", f"127.0.0.1 cannot be listened on: {error.strerror}", "`mbrl serve` needs it"
    else:
        yield "ok", "loopback", "127.0.0.1 can be listened on"


def nvidia(platforms: list[str]) -> Lines:
    """Yield whether there is a GPU that JAX does not use; ``platforms`` are those it uses."""
    if not Path("/dev/nvidiactl").exists() or {"gpu", "cuda"} & set(platforms):
        return
    wanted = os.environ.get("JAX_PLATFORMS")
    cause = f"JAX_PLATFORMS={wanted}" if wanted else "the extra is missing, or the driver is older than CUDA 12"
    yield "warn", "NVIDIA GPU", f"there is one, but JAX does not use it: {cause}", "pip install 'mbrl[cuda]'"


def settings() -> Lines:
    """Yield the environment's variables that would slow a run down or stop it."""
    found = [
        (name, cost, "unset it") for name, cost in _HARMFUL.items() if os.environ.get(name, "").lower() not in _OFF
    ]
    allowed = allowed_cores()
    for name in _THREADS:
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > allowed:
            found.append((name, f"{value} threads on {allowed} cores get in one another's way", f"set it to {allowed}"))
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        found.append(("XLA_FLAGS", "one CPU is made to look like several devices, for tests", "leave that flag out"))
    backend = os.environ.get("MPLBACKEND", "").lower()
    if backend.startswith(_WINDOWS) and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        found.append(("MPLBACKEND", f"{backend} opens windows, but there is no DISPLAY", "MPLBACKEND=Agg"))
    for name, cost, do in found:
        yield "warn", name, f"{os.environ.get(name, '')[:60]}: {cost}", do
    if not found:
        yield "ok", "settings", "no environment variable that would be in the way"


def _cgroup(name: str) -> int | None:
    path = Path("/sys/fs/cgroup") / name
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None
