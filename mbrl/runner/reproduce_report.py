"""What a suite's runs say beside published scores, in words: the table's cells, the sources, the page's section."""

from __future__ import annotations

from collections.abc import Sequence

from mbrl.runner.compare_report import number, spell
from mbrl.runner.goals import Arrival, Pace, paces
from mbrl.runner.scores import Against, Ours, Row
from mbrl.runner.suite import Reference, Suite
from mbrl.viz.report import Section

COLUMNS = (
    "task", "agent", "seeds", "env steps", "ours: IQM [95 % interval]", "published", "by", "at env steps", "difference",
    "bar", "seconds", "machine", "",
)
LEFT = frozenset({0, 1, 6, 9, 11, 12})  # names and remarks; the other columns are numbers
GOALS = ("task", "agent", "goal", "env steps to it, each seed", "median", "times the first's", "seconds to it, median")
_HOW = (
    "Ours is the interquartile mean over the seeds, at the env steps that stand beside it. A difference is ours minus "
    "the published score, and only given where both are of the same env steps; our evaluations come after whole "
    "epochs, so ours may be less than one epoch later, or, of an agent that brings its own training loop, less than "
    "one of its iterations, or 5 %."
)

_SOON = (
    "Env steps at a run's first evaluation whose mean return was the goal or more, so up to one interval between "
    "evaluations too many. One lucky evaluation is enough, and who is evaluated more often, or over fewer episodes, "
    "has more of them. A seed that never came there, or is missing, counts in the median as one that takes forever. "
    "Later seeds find compiled what the first compiled, and a run that went on compiled twice: seconds differ by that."
)


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the table, a row of ``COLUMNS`` for each published score that is shown."""
    sources = listed(rows)
    return [line for row in rows for line in _lines(row, sources)]


def goal_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return how soon each agent came to its task's goal, a row of ``GOALS`` for each; none where no task has one."""
    found, first = paces(rows), {}
    for pace in found:
        first.setdefault(pace.row.task.name, pace)
    return [_goal_cells(pace, first[pace.row.task.name]) for pace in found]


def _goal_cells(pace: Pace, first: Pace) -> tuple[str, ...]:
    missing = pace.row.seeds - len(pace.arrivals)
    each = " · ".join([*map(_arrival, pace.arrivals), *([f"{missing} missing"] if missing else [])])
    middle, seconds, times = pace.median, pace.seconds, pace.times(first)
    return (
        pace.row.task.name,
        pace.row.agent,
        number(pace.goal),
        each,
        "-" if middle is None else f"{middle:,.0f}",
        "-" if times is None or pace is first else f"{times:,.1f}",
        "-" if seconds is None else f"{seconds:,.0f}",
    )


def _arrival(one: Arrival) -> str:
    return f"not by {one.searched:,}" if one.steps is None else f"{one.steps:,}"


def listed(rows: Sequence[Row]) -> list[str]:
    """Return where the published scores that are shown come from, in the order of their numbers in the table."""
    return list(dict.fromkeys(_source(one.reference) for row in rows for one in shown(row)))


def shown(row: Row) -> list[Against]:
    """Return the references to show: of each method those at our env steps, or else the nearest one."""
    own = row.ours.steps[-1] if row.ours else row.task.steps
    chosen = []
    for name in dict.fromkeys(one.reference.agent for one in row.against):
        every = [one for one in row.against if one.reference.agent == name]
        chosen += [one for one in every if one.ours] or [min(every, key=lambda one: _distance(one.reference, own))]
    return chosen


def page_section(suite: Suite, rows: Sequence[Row]) -> list[Section]:
    """Return the sections of a page that hold a suite's rows against what is published."""
    table = (COLUMNS, *cells(rows))
    sources = tuple((f"[{place}]", source) for place, source in enumerate(listed(rows), 1))
    goals = goal_cells(rows)
    return [
        Section(f"Suite {suite.name}, beside published scores", f"{suite.about} {_HOW}", table=table),
        *([Section("How soon", _SOON, table=(GOALS, *goals))] if goals else []),
        *([Section("Sources of the published scores", table=(("", ""), *sources))] if sources else []),
    ]


def _distance(reference: Reference, step: int) -> int:
    return abs((step if reference.at is None else reference.at) - step)


def _source(reference: Reference) -> str:
    return f"{reference.kind}; {reference.source}" if reference.kind else reference.source


def _lines(row: Row, sources: Sequence[str]) -> list[tuple[str, ...]]:
    tail = (_bar(row), f"{row.seconds:,.0f}", ", then ".join(row.machines) or "-", _remark(row))
    head = (row.task.name, row.agent)
    if not row.against:
        return [(*head, *_own(row, row.ours), "-", "none published", "-", "-", *tail)]
    lines = []
    for one in shown(row):
        place = sources.index(_source(one.reference)) + 1
        at = "any" if one.reference.at is None else f"{one.reference.at:,}"
        theirs = (number(one.reference.score), f"{one.reference.agent} [{place}]", at)
        difference = _difference(row, one)
        lines.append((*head, *_own(row, one.ours or row.ours), *theirs, difference, *tail))
        tail = ("", "", "", "")  # once for each agent on a task
    return lines


def _own(row: Row, ours: Ours | None) -> tuple[str, str, str]:
    """Return our seeds, env steps and score."""
    count = len(ours.scores) if ours else 0
    seeds = str(row.seeds) if count == row.seeds else f"{count} of {row.seeds}"
    if ours is None:
        return seeds, "-", "-"
    span = " to ".join(f"{step:,}" for step in dict.fromkeys((ours.steps[0], ours.steps[-1])))
    return seeds, span, spell(ours.estimate)


def _difference(row: Row, one: Against) -> str:
    if one.difference is not None:
        return ("+" if one.difference >= 0 else "") + number(one.difference, one.reference.score)
    return "-" if row.ours is None or row.ours.steps == (one.reference.at,) else "env steps differ"


def _bar(row: Row) -> str:
    if row.task.bar is None:
        return "-"
    verdict = {True: "pass", False: "fail", None: f"not judged: it is for {row.task.steps:,} env steps"}
    if row.passed is None and len(row.runs) < row.seeds:
        return f"{number(row.task.bar)}: not judged, seeds are missing"
    return f"{number(row.task.bar)}: {verdict[row.passed]}"


def _remark(row: Row) -> str:
    remarks = {
        "one seed: no interval": row.ours is not None and len(row.ours.scores) == 1,
        f"{row.failed} of {row.seeds} failed": row.failed > 0,
        f"{row.open} of {row.seeds} not at the end": row.open > 0,
    }
    return "; ".join(said for said, holds in remarks.items() if holds)
