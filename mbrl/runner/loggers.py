"""Metrics on the disk: ``metrics.jsonl``, one object a line, and TensorBoard's events.

Everything but the wall clock's figures, whose names begin with ``time/``, is a function of config and seed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from mbrl.core.errors import UserError
from mbrl.runner.events import Events
from mbrl.runner.files import write_atomic
from mbrl.runner.rundir import RunDir

# By name; of a run of several seeds, `seeds` holds each one's numbers, again by name.
Values: TypeAlias = dict[str, Any]

_LARGEST = 2**31 - 1  # env steps are counted in int32


class MetricsLog:
    """Writes metrics of one run; a context manager, which makes them durable at its end.

    What the disk refuses is kept and written with what comes next; only TensorBoard's copy of it is lost.
    """

    def __init__(self, run: RunDir, step: int | None = None) -> None:
        """Open the logs.

        Args:
            run: the run's folder.
            step: env steps at which a stopped run goes on; what was logged later is dropped. None for a new run.
        """
        if step is not None:
            write_atomic(run.metrics, "".join(_lines_until(run, step)))
        self._path = run.metrics
        self._file = os.open(run.metrics, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._pending: list[bytes] = []
        self._events = Events(run.tensorboard, None if step is None else step + 1)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as ends:
            ends.callback(os.close, self._file)
            ends.callback(self._close_events)
            self.sync()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; what is not finite becomes null.

        Args:
            step: env steps.
            values: numbers by name.

        Raises:
            OSError: the disk refused.
        """
        finite: Values = {name: _finite(value) for name, value in values.items()}
        self._pending.append(f"{json.dumps({'step': step, **finite}, allow_nan=False)}\n".encode())
        self._append()
        shown = {name: value for name, value in finite.items() if value is not None and name != "seeds"}
        self._events.write(step, shown)

    def sync(self) -> None:
        """Make what was written durable, as a save at the same step needs it.

        Raises:
            OSError: the disk refused the lines; TensorBoard's copy may lack what it was refused.
        """
        self._append()
        os.fsync(self._file)
        with contextlib.suppress(OSError):
            self._events.flush()

    def _close_events(self) -> None:
        """End TensorBoard's copy, which may lack what the disk refused: what ends a run is the log itself."""
        with contextlib.suppress(OSError):
            self._events.close()

    def _append(self) -> None:
        """Write the pending lines whole, or leave the file as it was and raise OSError."""
        whole = os.fstat(self._file).st_size
        rest = b"".join(self._pending)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, whole)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._pending.clear()


class Unlogged:
    """What a process that does not write the run's folder does with its metrics: nothing."""

    def __enter__(self) -> Unlogged:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write nothing."""

    def sync(self) -> None:
        """Write nothing."""


def read_metrics(run: RunDir) -> list[Values]:
    """Return the lines of ``metrics.jsonl``, oldest first; a line cut short by a crash is left out."""
    return scan_metrics(run)[0]


def scan_metrics(run: RunDir) -> tuple[list[Values], list[int]]:
    """Return the lines of ``metrics.jsonl``, oldest first, and the numbers, from 1, of those that cannot be read.

    Raises:
        UserError: the file itself cannot be read.
    """
    if not run.metrics.is_file():
        return [], []
    try:
        lines = run.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{run.metrics} cannot be read: {error.strerror}") from error
    parsed = {number: _parse(line) for number, line in enumerate(lines, 1)}
    whole = [values for values in parsed.values() if values is not None]
    return whole, [number for number, values in parsed.items() if values is None]


def _lines_until(run: RunDir, step: int) -> list[str]:
    """Return the lines up to ``step``, as they stand in the file."""
    if not run.metrics.is_file():
        return []
    lines = run.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    parsed = ((line, _parse(line)) for line in lines)
    return [f"{line}\n" for line, values in parsed if values is not None and values["step"] <= step]


def _parse(line: str) -> Values | None:
    """Return a line's object, or None where it is none."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    step = values.get("step") if isinstance(values, dict) else None
    return values if type(step) is int and 0 <= step <= _LARGEST else None  # a bool is an int, too


def _finite(value: Any) -> Any:
    """Return the value with None for every number in it that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return value if value is not None and math.isfinite(value) else None
