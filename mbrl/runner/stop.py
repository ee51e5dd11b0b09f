"""The ways a run ends before its last step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - nothing went wrong: it was asked for, and everything is saved
    """A signal stopped the run after it was saved; the message says where, and whether and how it can go on.

    Attributes:
        run_dir: the run's folder.
        signum: the signal.
        exit_code: what a command line leaves with, 130 for Ctrl-C and 143 for SIGTERM.
    """

    def __init__(self, run_dir: Path, step: int, signum: int, then: str = "") -> None:
        """Note where and why; ``then`` says what can be done with the run, by default that it can go on."""
        super().__init__(
            f"stopped by {signal.Signals(signum).name} at env step {step:,}; saved in {run_dir}; "
            f"{then or f'go on with: mbrl train {run_dir}'}"
        )
        self.run_dir = run_dir
        self.signum = signum
        self.exit_code = 128 + signum


class RunFailedError(Exception):
    """The numbers broke down more often than the run may survive; state and batch are saved, the message says where."""


@contextlib.contextmanager
def signals(tell: Callable[[], None]) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the yielded list instead of dying; a second Ctrl-C interrupts at once.

    Outside the main thread signals cannot be caught, and the list stays empty.

    Args:
        tell: called, from a thread of its own, when the first signal arrives.
    """
    received: list[int] = []

    def note(signum: int, _frame: FrameType | None) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not received:  # printing inside a handler could meet a print half done, hence the thread
            threading.Thread(target=tell, daemon=True).start()
        received.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
