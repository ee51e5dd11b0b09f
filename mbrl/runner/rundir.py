"""A run is a folder, and one process writes in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from mbrl.core.errors import UserError, nearest
from mbrl.runner.config import Config, to_yaml
from mbrl.runner.files import write_atomic

_LOCK = ".lock"
_SAVED = ".saved"


class InUseError(UserError):
    """Another process holds the run's folder."""


class RunDir(NamedTuple):
    """Where the parts of a run lie."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config; it runs again as it stands."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, each with ``step``."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """The folder of saves."""
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def videos(self) -> Path:
        """The folder of episodes as moving pictures."""
        return self.path / "videos"

    @property
    def machines(self) -> Path:
        """A line for each machine it was on."""
        return self.path / "machine.txt"

    @property
    def faults(self) -> Path:
        """The folder of the batch that broke the numbers, if one did."""
        return self.path / "faults"


def default_path(config: Config[Any], now: datetime) -> Path:
    """Return ``runs/<environment>-<agent>-<seed>-<time>``."""
    env = re.sub(r"[^A-Za-z0-9_]+", "-", config.env.name)
    return Path("runs") / f"{env}-{config.agent.name}-{config.seed}-{now:%Y%m%d-%H%M%S}"


@contextlib.contextmanager
def create(config: Config[Any]) -> Iterator[RunDir]:
    """Make the run's folder with its ``config.yaml`` and hold it; a run that fails before it has anything leaves none.

    Raises:
        UserError: it exists with content, cannot be made, or another process holds it; nothing was written.
    """
    path = Path(config.run_dir) if config.run_dir else default_path(config, datetime.now())
    _refuse_content(path)
    made = _make(path)
    with hold(path):
        _refuse_content(path)  # another process may have been quicker
        with _begin(RunDir(path), config, made=made) as run:
            yield run


@contextlib.contextmanager
def take(config: Config[Any], anew: Callable[[], bool] = lambda: False) -> Iterator[RunDir]:
    """Hold ``config.run_dir`` as it is: a run to go on with where one was saved, else a new one.

    What a killed process left before its first save is cleared away.

    Args:
        config: the run's.
        anew: asked once the folder is held: whether what was saved is cleared away too.

    Raises:
        InUseError: another process holds it.
        UserError: what is there is no run, its saves have gone, or the folder cannot be made.
    """
    path = Path(config.run_dir)
    run = RunDir(path)
    is_other = path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir())
    if (is_other or path.is_file()) and not run.config.is_file():
        raise UserError(f"{path} is in the way of a run, but is none: it holds no config.yaml; remove it")
    made = _make(path)
    with hold(path):
        if not anew():
            if saved(run):
                yield run
                return
            _refuse_lost(run)
        _clear(run)
        with _begin(run, config, made=made):
            yield run


def _make(path: Path) -> bool:
    """Make a folder and return whether it was not there."""
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run folder {path} cannot be made: {error.strerror}; choose another --run_dir") from error
    return made


def saved(run: RunDir) -> bool:
    """Whether there is a save in a run's folder, valid or not."""
    return run.checkpoints.is_dir() and any(not path.name.startswith(".") for path in run.checkpoints.iterdir())


@contextlib.contextmanager
def _begin(run: RunDir, config: Config[Any], *, made: bool) -> Iterator[RunDir]:
    """Write the config of a new run in a folder that is held; clear it if the run fails before it has anything."""
    try:
        write_atomic(run.config, to_yaml(config))
        yield run
    except BaseException:
        # What stands here is this process's own; with neither a save nor a line of metrics it is worth nothing.
        if not run.checkpoints.is_dir() and not (run.metrics.is_file() and run.metrics.stat().st_size):
            _clear(run)
            _leave(run, made=made)
        raise


def _leave(run: RunDir, *, made: bool) -> None:
    """Remove config and lock where nothing else is in the folder, and the folder too where it was made for the run."""
    own = {run.config, run.path / _LOCK}
    if not own.issuperset(run.path.iterdir()):
        return
    for entry in own:
        entry.unlink(missing_ok=True)
    if made:
        run.path.rmdir()


def _clear(run: RunDir) -> None:
    """Remove what a run has written but its config; whatever else lies in the folder is somebody's."""
    parts = run.path.glob(".*.part")  # half-written
    written = run.metrics, run.tensorboard, run.checkpoints, run.report, run.videos, run.faults, run.machines
    for entry in (*written, run.path / _SAVED, *parts):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


@contextlib.contextmanager
def reopen(path: Path) -> Iterator[RunDir]:
    """Hold the folder of a run that is to go on; what one killed before its first save left is cleared away.

    Raises:
        UserError: it is not a run's folder, another process holds it, or its saves have gone.
    """
    run = begun(path)
    with hold(run.path):
        if not saved(run):
            _refuse_lost(run)
            _clear(run)
        yield run


def _refuse_lost(run: RunDir) -> None:
    """Raise where a run had a save and has none, before what is left of it is cleared away."""
    if (run.path / _SAVED).exists() or run.checkpoints.is_symlink():
        raise UserError(
            f"{run.path} had a save and has none: put its folder {run.checkpoints.name} back, or remove {run.path} to "
            "begin anew"
        )


def mark_saved(run: RunDir) -> None:
    """Note that a run has had a save, so that its absence is told and not taken for that of a run just begun."""
    with contextlib.suppress(OSError):  # of a full disk; the save itself is there
        (run.path / _SAVED).touch()


def existing(path: Path) -> RunDir:
    """Return the run in a folder.

    Raises:
        UserError: there is none, or nothing of it was saved.
    """
    run = begun(path)
    if not run.checkpoints.is_dir():
        raise UserError(f"{path} is not the folder of a run that was saved: it holds no checkpoints")
    return run


def begun(path: Path) -> RunDir:
    """Return the run in a folder, whether or not anything of it was saved.

    Raises:
        UserError: there is none.
    """
    run = RunDir(path)
    if not run.path.is_dir():
        beside = path.parent.iterdir() if path.parent.is_dir() else []
        hint = nearest(str(path), [str(other) for other in beside if other.is_dir()])
        raise UserError(f"there is no run folder {path}{hint}")
    if not run.config.is_file():
        raise UserError(f"{path} is not the folder of a run: it holds no config.yaml")
    return run


def _refuse_content(path: Path) -> None:
    """Raise where a new run would meet something that is already there."""
    if path.exists() and not path.is_dir():
        raise UserError(f"run folder {path} is a file; choose another --run_dir")
    if path.is_dir() and any(entry.name != _LOCK for entry in path.iterdir()):
        raise UserError(
            f"run folder {path} already exists with content; choose another --run_dir, or go on with it: "
            f"mbrl train {path}"
        )


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Keep every other process out of the folder; the lock ends with the process, however it ends."""
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        sentence = f"run folder {path} is in use by another process; wait for it or choose another one"
        raise InUseError(sentence) from error
    try:
        yield
    finally:
        os.close(descriptor)
