"""`mbrl compare`: the scores of any set of runs, side by side."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbrl.cli import parsing, tables
from mbrl.core.errors import UserError
from mbrl.runner import yaml_file

if TYPE_CHECKING:
    from mbrl.evaluation.comparison import Estimate
    from mbrl.runner.compare import Comparison

PROG = "mbrl compare RUN_DIR [RUN_DIR ...]"
_SCALE = yaml_file.Kind("a scale", "scale.yaml", "brax/hopper: {low: 20, high: 3000}")


@dataclasses.dataclass(frozen=True)
class CompareArguments:
    """Compare the scores of run folders, grouped by environment and agent.

    A run's score is the mean return of its latest evaluation; every seed counts as a run. Of several folders those that
    are no runs, or cannot be read, are passed over.
    """

    html: str = ""
    """File for a page with the table, learning curves, performance profiles and probabilities of improvement."""
    scale: str = ""
    """YAML file with the scores that count as 0 and 1, `brax/hopper: {low: 20, high: 3000}`; else the smallest and
    largest score of the runs on each task."""
    json: bool = False
    """Print the numbers as JSON instead of the table."""


def run(argv: Sequence[str]) -> int:
    """Compare and print a table, or JSON; what the reader might not expect is said on stderr.

    Raises:
        UserError: something in the words or the runs' folders is not right; nothing was written.
    """
    if parsing.HELP & set(argv):
        print(parsing.help_text(CompareArguments, PROG))
        return 0
    folders, words = parsing.split(argv, parsing.leaves(CompareArguments))
    arguments = parsing.parse(CompareArguments, words)
    if not folders:
        raise UserError("mbrl compare needs at least one RUN_DIR; `mbrl compare --help` shows how it is used")
    check_page(arguments.html, "compare.html")
    comparison = _compare(folders, arguments.scale)
    for note in comparison.notes:
        print(f"mbrl: {' '.join(note.split())}", file=sys.stderr)
    print(json.dumps(_numbers(comparison)) if arguments.json else _text(comparison))
    if arguments.html:
        from mbrl.runner.compare_report import page
        from mbrl.runner.files import write_atomic

        write_atomic(Path(arguments.html), page(comparison))
        print(f"page: {arguments.html}", file=sys.stderr if arguments.json else sys.stdout)
    return 0


def check_page(file: str, example: str) -> None:
    """Refuse a place where no page can be written before any work is done."""
    if file and Path(file).is_dir():
        raise UserError(f"--html is {file!r}, which is a folder; give a file, such as {Path(file, example)}")
    if file and not Path(file).parent.is_dir():
        raise UserError(f"--html is {file!r}, but there is no folder {Path(file).parent}; make it first")


def _compare(folders: Sequence[str], scale: str) -> Comparison:
    from mbrl.runner import compare, rundir  # these bring jax with them, which --help does without

    reference = _scale(Path(scale)) if scale else None
    places = [Path(folder).resolve() for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(f"run folder {folders[number]} is given twice; leave one of the two out")
    others = [place for place in map(Path, folders) if place.is_dir() and not rundir.RunDir(place).config.is_file()]
    if len(others) == len(folders):
        rundir.begun(others[0])  # refuses it
    # Of `runs/*` some are the folders of sweeps and suites.
    runs, notes = [], [f"passed over, as no config.yaml is there: {', '.join(map(str, others))}"] if others else []
    unread: list[UserError] = []
    for begun in [rundir.begun(place) for place in map(Path, folders) if place not in others]:
        try:
            found, told = compare.read(begun, dict(yaml_file.read(begun.config)))
        except UserError as error:
            found, told = [], [f"passed over: {error}"]
            unread.append(error)
        runs += found
        notes += told
    if not runs:
        raise unread[0]
    compared = compare.compare(runs, reference)
    return compared._replace(notes=(*notes, *compared.notes))


def _scale(path: Path) -> dict[str, tuple[float, float]]:
    """Return low and high of each task in a scale's file.

    Raises:
        UserError: it is no such file.
    """
    ends: dict[str, dict[str, float]] = {}
    for key, value in yaml_file.read(path, _SCALE):
        task, _, end = key.rpartition(".")
        if end not in {"low", "high"} or not task:
            raise UserError(f"{path}: {key!r} is not a task's low or high; a scale holds lines such as {_SCALE.line!r}")
        ends.setdefault(task, {})[end] = _number(path, key, value)
    for task, both in ends.items():
        if len(both) < 2:
            raise UserError(f"{path}: {task} has {next(iter(both))} only; it needs both low and high")
        if not both["low"] < both["high"]:
            raise UserError(f"{path}: {task} has low {both['low']:g} and high {both['high']:g}, but low must be lower")
    return {task: (both["low"], both["high"]) for task, both in ends.items()}


def _number(path: Path, key: str, value: Any) -> float:
    try:
        if isinstance(value, bool | dict | list) or abs(number := float(value)) == float("inf") or number != number:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: {key} is {parsing.short(str(value))}, but must be a number") from None
    return number


def _text(comparison: Comparison) -> str:
    """Return the table in columns, and below it the runs that failed."""
    from mbrl.runner.compare_report import COLUMNS, cells, failures

    left = {0, 1, len(COLUMNS) - 1}  # names and remarks; the others are numbers
    return "\n".join([*tables.columns([COLUMNS, *cells(comparison)], left), *failures(comparison)])


def _numbers(comparison: Comparison) -> dict[str, Any]:
    """Return what the JSON says; null stands for an interval of a single seed, and for the score of a run without."""
    rows = [
        {
            "task": row.task,
            "agent": row.agent,
            "differs": dict(row.differs),
            "seeds": len(row.scores),
            "iqm": None if row.estimate is None else float(row.estimate.value),
            "interval": interval(row.estimate),
            "mean": float(row.scores.mean()) if row.scores.size else None,
            "std": float(row.scores.std()) if row.scores.size > 1 else None,
            "min": float(row.scores.min()) if row.scores.size else None,
            "runs": [
                {"run_dir": str(one.run.path), "seed": one.run.seed, "step": one.step, "score": one.score,
                 "failed": one.failed, "trouble": one.trouble or None}
                for one in row.runs
            ],
        }
        for row in comparison.rows
    ]
    pairs = [
        {"better": pair.better, "than": pair.than, "tasks": list(pair.tasks),
         "probability": float(pair.estimate.value), "interval": interval(pair.estimate)}
        for pair in comparison.pairs
    ]
    scale = {task: one._asdict() for task, one in comparison.scale.items()}
    return {"rows": rows, "scale": scale, "overall": _overall(comparison), "improvement": pairs,
            "notes": list(comparison.notes)}


def _overall(comparison: Comparison) -> dict[str, Any] | None:
    overall = comparison.overall
    if overall is None:
        return None
    means = {agent: {"iqm": float(mean.value), "interval": interval(mean)} for agent, mean in overall.means.items()}
    return {"tasks": list(overall.tasks), "agents": means}


def interval(estimate: Estimate | None) -> list[float] | None:
    """Return an interval for JSON; None where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return [float(estimate.low), float(estimate.high)]
