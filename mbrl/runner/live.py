"""The live view of a run on a terminal; it moves in a thread of its own, also while XLA compiles."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from mbrl.runner.reporter import Plain, Reporter, clock, summary

_FRAMES_PER_SECOND = 8
_COLUMNS = 4  # figures in a row


class _View(NamedTuple):
    """What the view shows; replaced as a whole, so that the drawing thread never sees half a change."""

    phase: str
    since: float  # the phase's start on the monotonic clock
    step: int
    total: int
    figures: tuple[tuple[str, str], ...]  # label, text


class Terminal:
    """A reporter that redraws phase, progress and figures in place; notes scroll by above."""

    def __init__(self, console: Console) -> None:
        """Draw on ``console``."""
        self._console = console
        self._spinner = Spinner("dots")
        self._now = [_View("starting", time.monotonic(), 0, 0, ())]
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=_FRAMES_PER_SECOND, transient=False
        )

    def __enter__(self) -> Reporter:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def phase(self, name: str) -> None:
        """Show the phase and let its seconds run from zero; going on with the same phase goes on counting."""
        if name != self._now[0].phase:
            self._now[0] = self._now[0]._replace(phase=name, since=time.monotonic())

    def metrics(self, step: int, total: int, values: Mapping[str, Any]) -> None:
        """Show an epoch's figures; one that this epoch does not have, such as an evaluation, stays as it was."""
        figures = dict(self._now[0].figures) | dict(summary(values))
        self._now[0] = self._now[0]._replace(step=step, total=total, figures=tuple(figures.items()))

    def note(self, line: str) -> None:
        """Print the line above the view."""
        self._console.print(line, highlight=False, markup=False)

    def _draw(self) -> RenderableType:
        shown = self._now[0]
        seconds = clock(time.monotonic() - shown.since)
        head = Table.grid(padding=(0, 1))
        head.add_row(self._spinner, Text(shown.phase, style="bold"), Text(seconds, style="dim"))
        if not shown.total:
            return head
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=shown.total, completed=shown.step, width=40),
            Text(f"{shown.step:,}/{shown.total:,} env steps"),
        )
        return Group(head, bar, _grid(shown.figures))


def make_reporter() -> Reporter:
    """Return the live view where standard output is a terminal, and plain lines where it is not."""
    console = Console()
    return Terminal(console) if console.is_terminal and not console.is_dumb_terminal else Plain()


def _grid(figures: tuple[tuple[str, str], ...]) -> Table:
    """Lay (label, text) pairs out in a few columns."""
    table = Table.grid(padding=(0, 2))
    for start in range(0, len(figures), _COLUMNS):
        cells = (Text.assemble((f"{label} ", "dim"), text) for label, text in figures[start : start + _COLUMNS])
        table.add_row(*cells)
    return table
