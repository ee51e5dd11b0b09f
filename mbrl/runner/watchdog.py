"""A run on several hosts that has come to a standstill is ended instead of hanging for ever.

A process whose main thread is stuck still says that it lives (``bond.py``), and all others wait for it in their next
collective operation. What is left to see is that none of them gets any further.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mbrl.runner.reporter import Reporter

_COMPILING = 3.0  # times the limit: the first programs take long, and not the same time everywhere


class _Sign(NamedTuple):
    """The last sign of progress; replaced as a whole, as another thread reads it."""

    phase: str
    allowed: float  # seconds until the next


class Watched:
    """A reporter that passes everything on and takes it for progress; without any for too long, it ends the run."""

    def __init__(self, reporter: Reporter, limit: float, end: Callable[[str], Any]) -> None:
        """Watch over what ``reporter`` hears.

        Args:
            reporter: hears the same.
            limit: seconds without a new phase or an epoch's end; three times as many from "compiling" until the
                end of the epoch that follows.
            end: called with a sentence, from a thread, once.
        """
        self._reporter = reporter
        self._limit = limit
        self._end = end
        self._last = [_Sign("starting", _COMPILING * limit)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Reporter:
        self._reporter.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._reporter.__exit__(*error)

    def phase(self, name: str) -> None:
        """Pass on, and count as progress."""
        before = self._last[0]
        allowed = _COMPILING * self._limit if name == "compiling" else before.allowed
        self._last[0] = _Sign(name, allowed)
        self._reporter.phase(name)

    def metrics(self, step: int, total: int, values: Mapping[str, Any]) -> None:
        """Pass on; an epoch has ended, so what it needed is compiled."""
        self._last[0] = self._last[0]._replace(allowed=self._limit)
        self._reporter.metrics(step, total, values)

    def note(self, line: str) -> None:
        """Pass on."""
        self._reporter.note(line)

    def _watch(self) -> None:
        # Waits are counted, not the clock's seconds: where the whole machine stood still, nothing is stuck.
        wait = min(self._limit / 10, 1.0)
        seen, waited = self._last[0], 0.0
        while not self._over.wait(wait):
            last = self._last[0]
            waited = waited + wait if last is seen else 0.0
            seen = last
            if waited > last.allowed:
                self._end(
                    f"no progress for {last.allowed:.0f} s ({last.phase}), so the run is given up as stuck; it goes on "
                    "from its last save, on any number of hosts: mbrl train RUN_DIR; --stall_limit sets the seconds"
                )
                return
