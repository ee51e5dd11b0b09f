"""A virtual environment for each peer, made once: what is installed in it is noted beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".peers"
PINS = ROOT / "requirements.txt"
_UNPINNED = (3, 13)  # the first Python that requirements.txt is not for
_LENT = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
_SECONDS = 3600  # that one installation may take


class Unavailable(Exception):  # noqa: N818 - not a mistake of ours: a peer that cannot be had here
    """An environment that cannot be made; the message says why, in one sentence."""


class Environment(NamedTuple):
    """What one peer needs."""

    packages: tuple[str, ...]  # for pip
    constraints: tuple[str, ...] = ()  # of packages that those ask for, as lines of a constraints file
    pins: bool = False  # take the versions of requirements.txt
    below: tuple[int, int] | None = None  # the first Python that is too new


def own() -> Path:
    """Return the Python of mbrl's own `.venv`, which is made, and noted as made, the way the quickstart does."""
    folder, wanted = ROOT / ".venv", PINS.read_text() + (ROOT / "pyproject.toml").read_text()
    if any(_noted(folder / name) == wanted for name in ("installed", "installed-for-tests")):
        return folder / "bin" / "python"
    if not (folder / "bin" / "python").exists():
        _create(folder, find_python(None))
    _install(folder, ["-e", str(ROOT)], PINS if _version(folder / "bin" / "python") < _UNPINNED else None)
    (folder / "installed").write_text(wanted)
    return folder / "bin" / "python"


def peer(name: str, environment: Environment) -> Path:
    """Return the Python of a peer's environment below `.peers`; a complete one is used again.

    Raises:
        Unavailable: it cannot be made.
    """
    folder = HOME / name
    python = folder / "bin" / "python"
    constraints = PINS.read_text() if environment.pins else "".join(f"{line}\n" for line in environment.constraints)
    wanted = " ".join(environment.packages) + f"\n{constraints}"
    if _noted(folder / "installed") == wanted:
        return python
    if folder.exists():
        shutil.rmtree(folder)
    _create(folder, find_python(environment.below))
    file: Path | None = folder / "constraints.txt"
    if environment.pins and _version(python) >= _UNPINNED:
        file = None
    else:
        (folder / "constraints.txt").write_text(constraints)
    _install(folder, environment.packages, file)
    (folder / "installed").write_text(wanted)
    return python


def find_python(below: tuple[int, int] | None) -> str:
    """Return a Python that can make environments: this one if it is not too new.

    Raises:
        Unavailable: none is there.
    """
    if below is None or sys.version_info[:2] < below:
        return sys.executable
    for minor in range(below[1] - 1, 10, -1):
        name = f"python3.{minor}"
        # A shim may exist and yet refuse to run, so each is run.
        asked = ["-c", "import ensurepip, sys, venv; sys.stdout.write(sys.executable)"]
        found = _run([name, *asked], 60) if shutil.which(name) else None
        if found is not None and found.returncode == 0:
            return found.stdout.strip()
    raise Unavailable(f"it needs a Python from 3.11 to below {below[0]}.{below[1]}, and none is here")


def surroundings() -> dict[str, str]:
    """Return the environment variables without those that would lend a peer the caller's packages."""
    return {name: value for name, value in os.environ.items() if name not in _LENT}


def _create(folder: Path, python: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = _run([python, "-m", "venv", "--clear", str(folder)], 600)
    if made.returncode:
        raise Unavailable(f"its environment cannot be made: {_reason(made.stdout)}")


def _install(folder: Path, words: tuple[str, ...] | list[str], constraints: Path | None) -> None:
    """Install into ``folder``; all that pip says stands in `install.log` there."""
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", *(["-c", str(constraints)] if constraints else []), *words]
    done = _run(command, _SECONDS)
    (folder / "install.log").write_text(done.stdout)
    if done.returncode:
        raise Unavailable(f"pip cannot install it: {_reason(done.stdout)}")


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command with both its outputs as one; what takes too long or is not there counts as failed."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                              env=surroundings(), timeout=seconds)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, f"not done after {seconds:.0f} s")
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, str(error))


def _version(python: Path) -> tuple[int, ...]:
    asked = _run([str(python), "-c", "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"], 60)
    if asked.returncode:
        raise Unavailable(f"{python} does not run: {_reason(asked.stdout)}")
    return tuple(int(part) for part in asked.stdout.split("."))


def _noted(file: Path) -> str | None:
    """Return what was installed, or None where nothing is noted or the environment's Python is gone."""
    return file.read_text() if file.is_file() and (file.parent / "bin" / "python").exists() else None


def _reason(said: str) -> str:
    """Return the line of a log that says most: the last that speaks of an error, else the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it said nothing"])[-1]
