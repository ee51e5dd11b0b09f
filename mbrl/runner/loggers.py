"""Metrics on the disk: ``metrics.jsonl``, one object a line, and TensorBoard's events.

Everything but the wall clock's figures, whose names begin with ``time/``, is a function of config and seed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from tensorboardX import SummaryWriter

from mbrl.runner.files import write_atomic
from mbrl.runner.rundir import RunDir

# By name; of a run of several seeds, `seeds` holds each one's numbers, again by name.
Values: TypeAlias = dict[str, Any]


class MetricsLog:
    """Writes metrics of one run; a context manager, which makes them durable at its end."""

    def __init__(self, run: RunDir, step: int | None = None) -> None:
        """Open the logs.

        Args:
            run: the run's folder.
            step: env steps at which a stopped run goes on; what was logged later is dropped. None for a new run.
        """
        if step is not None:
            write_atomic(run.metrics, "".join(_lines_until(run, step)))
        self._file = run.metrics.open("a", encoding="utf-8")
        purge = None if step is None else step + 1
        self._events = SummaryWriter(logdir=str(run.tensorboard), purge_step=purge)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.sync()
        self._file.close()
        self._events.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; what is not finite becomes null.

        Args:
            step: env steps.
            values: numbers by name.
        """
        finite: Values = {name: _finite(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in finite.items():
            if value is not None and name != "seeds":
                self._events.add_scalar(name, value, step)

    def sync(self) -> None:
        """Make what was written durable, as a save at the same step needs it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._events.flush()


def read_metrics(run: RunDir) -> list[Values]:
    """Return the lines of ``metrics.jsonl``, oldest first; a line cut short by a crash is left out."""
    return scan_metrics(run)[0]


def scan_metrics(run: RunDir) -> tuple[list[Values], list[int]]:
    """Return the lines of ``metrics.jsonl``, oldest first, and the numbers, from 1, of those that cannot be read."""
    if not run.metrics.is_file():
        return [], []
    lines = run.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    parsed = {number: _parse(line) for number, line in enumerate(lines, 1)}
    whole = [values for values in parsed.values() if values is not None]
    return whole, [number for number, values in parsed.items() if values is None]


def _lines_until(run: RunDir, step: int) -> list[str]:
    """Return the lines up to ``step``, as they stand in the file."""
    if not run.metrics.is_file():
        return []
    lines = run.metrics.read_text(encoding="utf-8").splitlines()
    parsed = ((line, _parse(line)) for line in lines)
    return [f"{line}\n" for line, values in parsed if values is not None and (values["step"] or 0) <= step]


def _parse(line: str) -> Values | None:
    """Return a line's object, or None where it is none."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


def _finite(value: Any) -> Any:
    """Return the value with None for every number in it that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return value if value is not None and math.isfinite(value) else None
