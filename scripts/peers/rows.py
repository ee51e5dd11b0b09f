"""The arithmetic of the table: ratios round by round, their spread, and rows that say why one is missing.

Pure functions of numbers and words; nothing here measures anything.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Reading(NamedTuple):
    """One figure of one round, or why there is none."""

    value: float | None
    why: str = ""  # "not within 60,000 steps", "failed: ..."


class Evaluation(NamedTuple):
    """One evaluation of a training run."""

    steps: int  # env steps until then
    mean: float  # return, over all episodes of the evaluation
    seconds: float  # since the process started


class Learned(NamedTuple):
    """What one training run came to."""

    seconds: Reading  # from the process's start to the first evaluation that reached the goal
    steps: Reading  # env steps to there
    pace: Reading  # seconds per 1,000 env steps between evaluations, so without start and compilation


class Row(NamedTuple):
    """One quantity of one peer over all rounds."""

    peer: str
    quantity: str
    ours: float | None  # median over the rounds that have it
    theirs: float | None
    ratio: float | None  # median of theirs / ours over the rounds that have both
    low: float | None  # the lowest and the highest of those ratios
    high: float | None
    compared: int  # rounds that have both
    rounds: int
    note: str = ""


def learned(evaluations: Sequence[Evaluation], goal: float, budget: str) -> Learned:
    """Return when a run first reached ``goal``, and its pace until there or until its end.

    Args:
        evaluations: in the order they came; one before any training (0 steps) counts for the goal, not for the pace.
        goal: mean return of an evaluation that counts.
        budget: what the run was allowed, in words: it stands behind "not within".
    """
    reached = next((e for e in evaluations if e.mean >= goal), None)
    until = [e for e in evaluations if e.steps > 0 and (reached is None or e.steps <= reached.steps)]
    pace = Reading(None, "one evaluation gives no pace")
    if len(until) > 1 and until[-1].steps > until[0].steps:
        pace = Reading(1000 * (until[-1].seconds - until[0].seconds) / (until[-1].steps - until[0].steps))
    if reached is None:
        never = Reading(None, f"not within {budget}")
        return Learned(never, never, pace)
    return Learned(Reading(reached.seconds), Reading(float(reached.steps)), pace)


def row(peer: str, quantity: str, ours: Sequence[Reading], theirs: Sequence[Reading], note: str = "") -> Row:
    """Return the row of one quantity, round by round beside each other.

    Raises:
        ValueError: the two have not been read in equally many rounds.
    """
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [b.value / a.value for a, b in pairs if a.value and b.value is not None]
    reasons = [_reasons("ours", ours), _reasons("theirs", theirs), note]
    return Row(
        peer, quantity, _median(ours), _median(theirs),
        statistics.median(ratios) if ratios else None, min(ratios, default=None), max(ratios, default=None),
        len(ratios), len(pairs), "; ".join(reason for reason in reasons if reason),
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    head = ("peer", "what", "ours", "theirs", "theirs / ours", "lowest to highest", "rounds", "note")
    lines = [_line(head), _line(["---"] * len(head))]
    for r in rows:
        spread = "-" if r.low is None else f"{_number(r.low)} to {_number(r.high)}"
        cells = (r.peer, r.quantity, _number(r.ours), _number(r.theirs), _number(r.ratio), spread,
                 f"{r.compared} of {r.rounds}", r.note)
        lines.append(_line(cells))
    return "\n".join(lines)


def _median(readings: Sequence[Reading]) -> float | None:
    values = [reading.value for reading in readings if reading.value is not None]
    return statistics.median(values) if values else None


def _reasons(whose: str, readings: Sequence[Reading]) -> str:
    """Return why figures are missing, each reason once, with how often if not always."""
    counts = Counter(reading.why for reading in readings if reading.value is None)
    often = lambda n: "" if n == len(readings) else f" ({n} of {len(readings)})"
    return "; ".join(f"{whose}: {why}{often(n)}" for why, n in counts.items())


def _number(value: float | None) -> str:
    """Return a number with three digits that say something, or a dash."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
