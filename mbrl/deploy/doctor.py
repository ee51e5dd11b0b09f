"""What this machine has, and what would go wrong on it: one line each, never an exception.

What may crash or hang (drivers, graphics) is tried in processes of its own, which are not waited for beyond a limit.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mbrl.deploy import doctor_machine
from mbrl.deploy.doctor_machine import Lines, Status

_SECONDS = 8.0  # that a process which tries something is waited for
# What an extra brings, and the distribution that tells whether it is there where that is not one it names itself.
_EXTRAS = {
    "cuda": ("NVIDIA GPUs", "jax-cuda12-plugin"),
    "dev": ("tests, lint and types", ""),
    "playground": ("the DM-Control suite of the MuJoCo Playground, dmc/*", ""),
    "serve": ("mbrl serve", ""),
    "torch": ("policies in PyTorch", ""),
    "video": ("films as MP4 instead of GIF", ""),
}
_GL = "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); context.free()"


class Finding(NamedTuple):
    """One line."""

    status: Status  # "fail" is what training cannot do without
    name: str
    said: str
    do: str = ""  # what to change; empty where nothing has to be


def examine(cache: Path, runs: Path = Path("runs")) -> list[Finding]:
    """Return what was found, in the order it is told.

    Args:
        cache: where compiled programs are kept.
        runs: where runs are kept.
    """
    with ThreadPoolExecutor(2) as pool:
        devices = pool.submit(_tried, ["-m", "mbrl.deploy.doctor_devices"], {})
        graphics = pool.submit(_tried, ["-c", _GL], {"MUJOCO_GL": os.environ.get("MUJOCO_GL") or "egl"})
        checks: list[tuple[str, Callable[[], Lines]]] = [
            ("cores", doctor_machine.cores),
            ("memory", doctor_machine.memory),
            ("disk", lambda: doctor_machine.disk("runs", runs)),
            ("disk", lambda: doctor_machine.disk("compile cache", cache)),
            ("compile cache", lambda: doctor_machine.compile_cache(cache)),
            ("shared memory", doctor_machine.shared_memory),
            ("clock", doctor_machine.clock),
            ("files", doctor_machine.files),
            ("loopback", doctor_machine.loopback),
            ("settings", doctor_machine.settings),
            ("python", _python),
            ("jax", lambda: _devices(devices.result())),
            ("nvidia", lambda: doctor_machine.nvidia(_platforms(devices.result()))),
            ("mujoco", lambda: _graphics(graphics.result())),
            ("extras", _extras),
        ]
        return [finding for name, check in checks for finding in _safely(name, check)]


def _safely(name: str, check: Callable[[], Lines]) -> list[Finding]:
    """Return a check's findings; one that breaks down is itself one."""
    try:
        return [Finding(status, *told) for status, *told in check()]
    except Exception as error:  # noqa: BLE001 - a doctor that dies of what it finds helps nobody
        return [Finding("warn", name, f"could not be checked ({type(error).__name__}: {error})")]


def _python() -> Lines:
    version = ".".join(map(str, sys.version_info[:3]))
    yield ("ok", "Python", version) if sys.version_info >= (3, 11) else (
        "fail", "Python", version, "mbrl needs 3.11 or newer")
    try:
        found = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy", "mujoco", "brax")}
    except importlib.metadata.PackageNotFoundError as error:
        yield "fail", "packages", f"{error.name} is not installed", "pip install mbrl"
        return
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    alike = [_release(found[name]) for name in ("jax", "jaxlib")]
    yield ("ok", "packages", told) if alike[0] >= alike[1] else (
        "fail", "packages", told, f"jaxlib is newer than jax: pip install jax=={found['jaxlib']}")


def _release(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _tried(words: list[str], settings: dict[str, str]) -> tuple[int | None, str, str]:
    """Run Python on some words; return its exit code (None if it hung), what it printed, and its last complaint.

    Nothing is imported from the folder that it runs in, where anybody may write.
    """
    search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", *words], env=os.environ | settings | {"PYTHONPATH": search}, timeout=_SECONDS,
            capture_output=True, text=True, errors="replace", check=False, cwd=tempfile.gettempdir())
    except subprocess.TimeoutExpired:
        return None, "", f"no answer within {_SECONDS:g} seconds"
    complaint = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return done.returncode, done.stdout, complaint[:200]


def _devices(tried: tuple[int | None, str, str]) -> Lines:
    code, said, complaint = tried
    if code is None:
        yield "warn", "jax", f"{complaint}: not known whether JAX computes here", "try again when the machine is idle"
        return
    if code != 0:
        yield "fail", "jax", f"JAX does not compute here: {complaint}", "pip install --upgrade jax, or 'mbrl[cuda]'"
        return
    for row in json.loads(said.splitlines()[-1]):
        told = f"{row['count']} x {row['kind']}; a small program took {row['seconds']:.1f} s to compile and run"
        if not row["error"] <= 1e-3:  # NaN is wrong too
            yield ("fail", f"jax {row['platform']}", f"{told}, but its numbers are wrong by {row['error']:.2g}",
                   "the device or its driver is broken: JAX_PLATFORMS=cpu does without it")
        else:
            yield "ok", f"jax {row['platform']}", f"{told}; its numbers are right"


def _platforms(tried: tuple[int | None, str, str]) -> list[str]:
    return [row["platform"] for row in json.loads(tried[1].splitlines()[-1])] if tried[0] == 0 else []


def _graphics(tried: tuple[int | None, str, str]) -> Lines:
    chosen = os.environ.get("MUJOCO_GL")
    name = f"MUJOCO_GL={chosen or 'egl'}"
    if tried[0] == 0:
        advice = "" if chosen else "set MUJOCO_GL=egl where a program draws by MuJoCo itself"
        yield "ok", "MuJoCo GL", f"{name} works{'' if chosen else ', but is not set'}", advice
    else:
        yield ("warn", "MuJoCo GL", f"{name} does not work: {tried[2]}",
               "only environments that draw by MuJoCo itself need it (mbrl draws on its own): install libegl1, "
               "MUJOCO_GL=egl")


def _extras() -> Lines:
    """Say of every extra whether it is there; the list is the package's own."""
    try:
        from packaging.requirements import Requirement

        needs = [Requirement(line) for line in importlib.metadata.requires("mbrl") or []]
        extras = sorted(importlib.metadata.metadata("mbrl").get_all("Provides-Extra") or [])
    except (ImportError, importlib.metadata.PackageNotFoundError):
        yield "warn", "extras", "mbrl is not installed as a package, so its extras are not known", "pip install mbrl"
        return
    for extra in extras:
        brings, mark = _EXTRAS.get(extra, ("", ""))
        names = [mark] if mark else [
            need.name for need in needs if need.marker and need.marker.evaluate({"extra": extra})
            and not need.marker.evaluate({"extra": ""})]
        missing = [name for name in names if not _installed(name)]
        label, told = f"extra {extra}", f"{brings}: " if brings else ""
        if missing:
            yield "ok", label, f"{told}not installed ({', '.join(missing)})", f"pip install 'mbrl[{extra}]'"
        else:
            yield "ok", label, f"{told}installed"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
