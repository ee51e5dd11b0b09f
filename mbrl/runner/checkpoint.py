"""Checkpoints: Orbax writes the arrays; this adapter makes them atomic, verified and bounded in number.

Orbax alone restores flipped bits silently, casts dtypes and falls back to nothing, so each save is written to a
hidden folder, listed in a SHA-256 manifest, read back and compared bit for bit, and only then given its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from mbrl.core.errors import UserError
from mbrl.runner import leaves, manifest
from mbrl.runner.files import sync, write_atomic

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"\d{12}")
_META = "meta.json"
CONFIG = "config.yaml"
_STATE = "state"
# Of several processes one writes and reads, and Orbax shall not wait for the others.
_ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="alone")
_SETTLE = 0.2  # seconds in which writes that were under way when another failed come to their end


class Saved(NamedTuple):
    """A save whose manifest holds."""

    path: Path
    step: int  # env steps
    metric: float | None  # the latest evaluation's mean return at that time
    config: str  # the resolved config as YAML
    specs: dict[str, leaves.LeafSpec]


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The saves in one folder: the newest ``keep`` and, by evaluation return, the best."""

    folder: Path
    keep: int = 2

    def save(self, state: PyTree, step: int, *, config: str, metric: float | None = None) -> Path:
        """Write ``state`` whole and verified, then drop the saves that are no longer kept.

        Args:
            state: the pytree to save; random keys may be typed.
            step: env steps, which name the save; an older save of the same step is replaced.
            config: the resolved config as YAML, kept beside the arrays.
            metric: the latest evaluation's mean return, or None.

        Raises:
            UserError: the disk refused or did not give back what was written; earlier saves are untouched.
        """
        host = leaves.to_host(state)
        part = self.folder / f".part-{step:012d}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            part.mkdir()
            _orbax(lambda orbax: orbax.save((part / _STATE).absolute(), host.arrays))
            write_atomic(part / CONFIG, config)
            write_atomic(part / _META, _meta_text(step, metric, host.specs))
            manifest.write(part)
            self._verify(part, host)
            final = self._publish(part, step)
        except (OSError, ValueError, RuntimeError) as error:
            shutil.rmtree(part, ignore_errors=True)
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"step {step} could not be saved in {self.folder}: {cause}; earlier saves are untouched: make room "
                f"on the disk"
            ) from error
        self._prune()
        return final

    def has(self, step: int) -> bool:
        """Whether there is a save of that step."""
        with contextlib.suppress(OSError):  # a disk that does not answer: saving will say so
            return (self.folder / f"{step:012d}").is_dir()
        return False

    def find(self, *, best: bool = False) -> Saved:
        """Return the newest save that is whole, or the best; a damaged one is passed over with one warning line.

        Raises:
            UserError: there is none.
        """
        steps = [path for path in self._listed() if not best or _metric(path) is not None]
        order = sorted(steps, key=_metric_then_step) if best else steps
        for path in reversed(order):
            saved = _open(path)
            if isinstance(saved, Saved):
                return saved
            _LOG.warning("checkpoint %s is damaged (%s); trying the one before", path, saved)
        kind = "evaluated checkpoint" if best else "checkpoint"
        raise UserError(f"no valid {kind} in {self.folder}, where {len(order)} were found; start the run anew")

    def load(self, saved: Saved, template: PyTree) -> PyTree:
        """Return the saved state in fresh device buffers.

        Args:
            saved: from ``find``.
            template: the state's structure, shapes and dtypes, e.g. from ``jax.eval_shape``.

        Raises:
            UserError: another structure, shape or dtype, naming the leaf, what was found and what is expected.
        """
        leaves.check(template, saved.specs)
        return leaves.from_host(template, leaves.HostTree(self.arrays(saved), saved.specs))

    def arrays(self, saved: Saved) -> dict[str, np.ndarray]:
        """Return a save's arrays by name, as they were written.

        Raises:
            UserError: Orbax cannot read them, or they have another shape or dtype than the save says.
        """
        try:
            _check_stored(saved)
            return _read(saved.path, saved.specs)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"checkpoint {saved.path} cannot be read by this Orbax: {error}") from error

    def set_aside_after(self, step: int) -> None:
        """Rename saves newer than ``step`` (damaged ones that a resume passed over), so that they no longer count."""
        for path in self._listed():
            if int(path.name) > step:
                aside = path.with_name(f"{path.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)

    def _listed(self) -> list[Path]:
        """Return the saves, oldest first; links are not followed."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        return sorted(path for path in found if path.is_dir() and not path.is_symlink())

    def _sweep(self) -> None:
        """Remove what a killed process left half-written."""
        for part in self.folder.glob(".part-*"):
            shutil.rmtree(part)

    def _verify(self, part: Path, host: leaves.HostTree) -> None:
        """Read a save back from its folder.

        Raises:
            OSError: it is not what was to be written.
        """
        if (line := manifest.problem(part)) is not None:
            raise OSError(line)
        stored = _read(part, host.specs)
        for name, array in host.arrays.items():
            if not _identical(stored.get(name), array):
                raise OSError(f"{name} was read back differently")

    def _publish(self, part: Path, step: int) -> Path:
        """Give a verified save its name."""
        final = self.folder / f"{step:012d}"
        if final.exists():
            former = self.folder / f".part-former-{final.name}"
            final.rename(former)
            part.rename(final)
            shutil.rmtree(former)
        else:
            part.rename(final)
        sync(self.folder)
        return final

    def _prune(self) -> None:
        """Remove whole saves that are neither among the newest nor the best."""
        whole = [path for path in self._listed() if manifest.problem(path, digests=False) is None]
        rated = [path for path in whole if _metric(path) is not None]
        kept = {*whole[-self.keep :], *sorted(rated, key=_metric_then_step)[-1:]}
        for path in set(whole) - kept:
            # Under a name that the next save sweeps: half of a save would be damaged, and so kept for ever.
            shutil.rmtree(path.rename(self.folder / f".part-former-{path.name}"))


def _read(path: Path, specs: dict[str, leaves.LeafSpec]) -> dict[str, np.ndarray]:
    """Read a save's arrays as they were written."""
    names = [name for name, spec in specs.items() if math.prod(spec.shape)]
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    return _orbax(lambda orbax: orbax.restore((path / _STATE).absolute(), restore_args=as_numpy))


def _check_stored(saved: Saved) -> None:
    """Raise ValueError where an array's file says another shape or dtype than the save: Orbax would go by the file.

    No array is read for it, so a file that says it holds terabytes takes no memory.
    """
    told = _orbax(lambda orbax: orbax.metadata((saved.path / _STATE).absolute())).item_metadata
    if not isinstance(told and told.tree, dict):
        raise ValueError("its own description of the arrays is missing")
    for name, spec in saved.specs.items():
        if not math.prod(spec.shape):
            continue
        dtype, shape = leaves.stored(spec)
        # What is described as a text, say, has neither.
        found = tuple(getattr(told.tree[name], part, None) for part in ("dtype", "shape"))
        if (str(found[0]), found[1]) != (dtype, shape):
            raise ValueError(f"the file of {name} holds {found[0]}{found[1]}, not {dtype}{shape}")


def _identical(a: np.ndarray | None, b: np.ndarray) -> bool:
    """Whether two arrays agree in dtype, shape and every bit; NaN equals itself."""
    if a is None or a.dtype != b.dtype or a.shape != b.shape:
        return False
    flat = [np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b)]
    return np.array_equal(flat[0], flat[1])


def _open(path: Path) -> Saved | str:
    """Return a save whose every byte was checked, or what is wrong with it."""
    if (line := manifest.problem(path)) is not None:
        return line
    try:
        meta = json.loads((path / _META).read_text(encoding="utf-8"))
        specs = {name: leaves.read_spec(entry) for name, entry in meta["leaves"].items()}
        config = (path / CONFIG).read_text(encoding="utf-8")
        return Saved(path, _steps(meta["step"]), _rating(meta["metric"]), config, specs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return f"{_META} or {CONFIG} cannot be read"


def _steps(number: Any) -> int:
    """Return a step as it was read; raises ValueError where it is none."""
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is no number of steps")
    return number


def _rating(number: Any) -> float | None:
    """Return a metric as it was read; raises ValueError where it is neither None nor a finite number."""
    if number is None:
        return None
    if type(number) not in (int, float) or not math.isfinite(number):
        raise ValueError(f"{number!r} is no return")
    return float(number)


def _metric(path: Path) -> float | None:
    """Return a save's evaluation return, without checking the save."""
    try:
        return _rating(json.loads((path / _META).read_text(encoding="utf-8"))["metric"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def _metric_then_step(path: Path) -> tuple[float, str]:
    """Sort key by which the best save is the last; of equals, the newest."""
    metric = _metric(path)
    return (-math.inf if metric is None else metric, path.name)


def _meta_text(step: int, metric: float | None, specs: dict[str, leaves.LeafSpec]) -> str:
    """Return the sidecar: step, metric, versions, and the shape and dtype of every leaf."""
    packages = {name: metadata.version(name) for name in ("jax", "numpy", "orbax-checkpoint")}
    rated = None if metric is None or not math.isfinite(metric) else float(metric)
    versions = {"python": platform.python_version(), **packages}
    return json.dumps({"step": step, "metric": rated, "versions": versions, "leaves": specs}, indent=1)


def _orbax(work: Callable[[ocp.Checkpointer], Any]) -> Any:
    """Let Orbax work, synchronously, in a thread without an event loop: a notebook's own would be in its way."""
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_ALONE)
    with (
        _quiet(),
        ThreadPoolExecutor(1) as pool,
        ocp.Checkpointer(handler, multiprocessing_options=_ALONE) as orbax,
    ):
        return pool.submit(work, orbax).result()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back Orbax's chatter on absl's logger, and what its other writes still say after one has failed.

    What matters of both is raised as an exception too.
    """
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda late: None if str(late.exc_value) == "Event loop is closed" else hook(late)
    try:
        yield
    except Exception:
        time.sleep(_SETTLE)
        raise
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook
