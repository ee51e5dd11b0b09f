"""What a run tells the one who waits for it, on a terminal or in a file of plain lines."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TextIO, runtime_checkable

from mbrl.core.errors import UserError, of_disk

HEARTBEAT_SECONDS = 10.0


@runtime_checkable
class Reporter(Protocol):
    """Hears of a run's progress; a context manager, entered for as long as the run goes on."""

    def __enter__(self) -> Reporter: ...

    def __exit__(self, *error: object) -> None: ...

    def phase(self, name: str) -> None:
        """Something else begins: compiling, collecting, learning, evaluating, saving, stopping, reporting."""
        ...

    def metrics(self, step: int, total: int, values: Mapping[str, Any]) -> None:
        """An epoch has ended after ``step`` of ``total`` env steps."""
        ...

    def note(self, line: str) -> None:
        """Something worth a line of its own."""
        ...


class Silent:
    """Says nothing."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def phase(self, name: str) -> None:
        """Say nothing."""

    def metrics(self, step: int, total: int, values: Mapping[str, Any]) -> None:
        """Say nothing."""

    def note(self, line: str) -> None:
        """Say nothing."""


class Plain:
    """Plain lines: one an epoch, and a sign of life every ten seconds in between."""

    def __init__(self, stream: TextIO | io.TextIOBase | None = None, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        """Write to ``stream`` (standard output when None); ``heartbeat`` is in seconds."""
        self._stream = sys.stdout if stream is None else stream
        self._heartbeat = heartbeat
        self._lock = threading.Lock()
        self._said = {"phase": "starting", "at": time.monotonic()}  # guarded by the lock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def phase(self, name: str) -> None:
        """Remember the phase; those that can take long from the start are announced."""
        with self._lock:
            self._said.update(phase=name, at=time.monotonic())
            if name in {"compiling", "reporting", "stopping"}:
                self._write(f"{name} ...")

    def metrics(self, step: int, total: int, values: Mapping[str, Any]) -> None:
        """Write the epoch's line."""
        line = "  ".join(f"{label} {text}" for label, text in summary(values))
        with self._lock:
            self._said.update(at=time.monotonic())
            self._write(f"{self._said['phase']}  {step:,}/{total:,} env steps  {line}")

    def note(self, line: str) -> None:
        """Write the line."""
        with self._lock:
            self._write(line)

    def _write(self, line: str) -> None:
        """Write a line; a full disk below it costs the line, a reader that has gone all further ones, none the run."""
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except BrokenPipeError:
            with contextlib.suppress(OSError):  # io.UnsupportedOperation, of a stream without one, among them
                # What is still buffered would else fail again when the process ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        except OSError:
            pass

    def _beat(self) -> None:
        """Write a line whenever nothing has been heard of the run for a while."""
        while not self._over.wait(self._heartbeat):
            with self._lock:
                silent = time.monotonic() - float(self._said["at"])
                if silent >= self._heartbeat:
                    self._write(f"{self._said['phase']} ... {silent:.0f} s")


def endure(reporter: Reporter, write: Callable[[], None]) -> None:
    """Write, or tell why that failed and go on: a full disk costs a save or two, not the run."""
    try:
        write()
    except (OSError, UserError) as error:
        said = (isinstance(error, OSError) and of_disk(error)) or str(error)
        reporter.note(f"warning: {said}; training goes on and tries again")


class _Shown(NamedTuple):
    """A figure of the summary: its label, the metric it comes from, its format."""

    label: str
    name: str
    form: str


_SHOWN = (
    _Shown("steps/s", "time/steps_per_second", "{:.0f}"),
    _Shown("updates/step", "run/updates_per_step", "{:.3g}"),
    _Shown("return", "episode/return", "{:.1f}"),
    _Shown("evaluation", "eval/return_mean", "{:.1f}"),
)


def summary(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures worth a glance as (label, text): time left, speed, returns, and every loss once it exists."""
    names = sorted(values) if values.get("run/updates") else []
    losses = [_Shown(name, name, "{:.3g}") for name in names if name.startswith("loss/")]
    rows = [("left", clock(values.get("time/left")))]
    for shown in (*_SHOWN, *losses):
        value = values.get(shown.name)
        if value is not None and math.isfinite(value):
            rows.append((shown.label, shown.form.format(value)))
    return rows


def clock(seconds: float | int | None) -> str:
    """Return ``m:ss`` or ``h:mm:ss``; a dash for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
