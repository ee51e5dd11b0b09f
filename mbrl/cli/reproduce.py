"""`mbrl reproduce`: the runs of a suite, and what they scored beside what others have published."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mbrl.cli import fields, parsing, tables
from mbrl.cli.compare import check_page, interval
from mbrl.core.errors import UserError

if TYPE_CHECKING:
    from mbrl.runner.compare import Run
    from mbrl.runner.goals import Pace
    from mbrl.runner.reproduce import Job, Outcome
    from mbrl.runner.scores import Against, Row
    from mbrl.runner.suite import Suite


@dataclasses.dataclass(frozen=True)
class ReproduceArguments:
    """Run what is missing of a suite and hold it against published scores.

    Stopped, the same command goes on; a run that is done is not run again, one that failed is kept.
    """

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """A suite's name, see `mbrl list suites`, or its file."""
    task: tuple[str, ...] = ()
    """Tasks to run; all, if none is given."""
    agent: tuple[str, ...] = ()
    """Agents to run; all, if none is given."""
    seeds: int | None = None
    """How many seeds of each, instead of the suite's own number."""
    budget: str = ""
    """Env steps of each run, instead of the suite's own: 100k, 1e5, 100000."""
    root: str = ""
    """Folder of the runs; `runs/reproduce/SUITE` if empty."""
    html: str = ""
    """File for a page with the table, learning curves and every run."""
    json: bool = False
    """Print the numbers as JSON instead of the table; the progress goes to stderr."""


def run(argv: Sequence[str]) -> int:
    """Run the suite and print the table; 1 if a run failed or a bar was missed.

    Raises:
        UserError: something in the words or the suite is not right, or a folder has a run of other settings.
    """
    arguments = parsing.command(ReproduceArguments, argv, "mbrl reproduce")
    if arguments is None:
        return 0
    from mbrl.cli import suites  # brings jax with it, which --help does without

    suite = suites.read(arguments.suite)
    if suite.unavailable:
        raise UserError(f"suite {suite.name!r} cannot be run: {suite.unavailable}")
    check_page(arguments.html, "reproduce.html")
    jobs = _jobs(arguments, suite)
    outcomes, stopped = _perform(jobs, quiet=arguments.json)
    notes = [outcome.note for outcome in outcomes.values() if outcome.note]
    for note in notes:
        print(f"mbrl: {' '.join(note.split())}", file=sys.stderr)
    if stopped:
        return stopped
    rows, runs, told = _rows(jobs, outcomes)
    for note in told:
        print(f"mbrl: {' '.join(note.split())}", file=sys.stderr)
    print(json.dumps(_numbers(suite, rows, [*notes, *told])) if arguments.json else _text(rows))
    if arguments.html:
        page = _write_page(Path(arguments.html), suite, rows, runs)
        print(page, file=sys.stderr if arguments.json else sys.stdout)
    return int(any(row.failed or row.passed is False for row in rows))


def _jobs(arguments: ReproduceArguments, suite: Suite) -> list[Job]:
    """Return the runs that are asked for, checked."""
    from mbrl.cli import suites
    from mbrl.runner import reproduce

    budget = fields.count(arguments.budget) if arguments.budget else None
    if arguments.budget and (budget is None or budget < 1):
        given = parsing.short(arguments.budget)
        raise UserError(f"--budget is {given}, but must be env steps, such as 100k, 1e5 or 100000")
    if arguments.seeds is not None and arguments.seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {arguments.seeds}")
    configs = suites.configs(suite, arguments.task, arguments.agent, budget)
    if not configs:
        raise UserError(f"none of the tasks {', '.join(arguments.task)} has an agent {', '.join(arguments.agent)}")
    root = Path(arguments.root) if arguments.root else Path("runs/reproduce", suite.name)
    jobs = reproduce.jobs(root, configs, arguments.seeds)
    reproduce.check_all(jobs)
    return jobs


def _perform(jobs: Iterable[Job], *, quiet: bool) -> tuple[dict[Path, Outcome], int]:
    """Bring all runs to their ends; return what came of each, and an exit code if a signal came between."""
    from mbrl.cli import compilation
    from mbrl.runner.live import make_reporter
    from mbrl.runner.reporter import Plain
    from mbrl.runner.reproduce import Outcome, perform
    from mbrl.runner.stop import Interrupted

    compilation.use_cache()
    outcomes = {}
    for job in jobs:
        try:
            outcomes[job.run.path] = perform(job, (lambda: Plain(sys.stderr)) if quiet else make_reporter)
        except Interrupted as stopped:
            name = signal.Signals(stopped.signum).name
            going_on = f"{stopped.run_dir} is saved, and the same command goes on with it"
            return outcomes | {job.run.path: Outcome(f"stopped by {name}; {going_on}")}, stopped.exit_code
    return outcomes, 0


def _rows(jobs: Sequence[Job], outcomes: Mapping[Path, Outcome]) -> tuple[list[Row], list[Run], list[str]]:
    """Return what each agent scored on each task, all runs there are, and what is odd about them."""
    from mbrl.runner import reproduce, scores

    rows, every, notes = [], [], []
    for task, agent in dict.fromkeys((job.task.name, job.agent) for job in jobs):
        own = [job for job in jobs if (job.task.name, job.agent) == (task, agent)]
        runs = []
        for job in own:
            found, told = reproduce.runs_of(job, outcomes[job.run.path])
            runs += found
            notes += told
        rows.append(scores.judged(own[0].task, agent, runs, len(own), own[0].config.steps))
        every += runs
    return rows, every, notes


def _write_page(file: Path, suite: Suite, rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """Write the page and return a line that says where it is, or that there is none."""
    if not any(row.ours for row in rows):
        return f"page: none in {file}, as no run was evaluated"
    from mbrl.runner.compare import compare
    from mbrl.runner.compare_report import page
    from mbrl.runner.files import write_atomic
    from mbrl.runner.reproduce_report import page_section

    write_atomic(file, page(compare(runs), page_section(suite, rows)))
    return f"page: {file}"


def _text(rows: Sequence[Row]) -> str:
    """Return the table, below it the scores' sources and what happened to runs, and how soon goals were reached."""
    from mbrl.runner import reproduce_report as report

    table = tables.columns([report.COLUMNS, *report.cells(rows)], report.LEFT)
    sources = [f"[{place}] {source}" for place, source in enumerate(report.listed(rows), 1)]
    troubles = [
        f"failed: {run.path}, seed {run.seed}: {run.trouble}" for row in rows for run in row.runs if run.trouble
    ]
    goals = report.goal_cells(rows)
    soon = ["", *tables.columns([report.GOALS, *goals], {0, 1})] if goals else []
    return "\n".join([*table, *sources, *troubles, *soon])


def _numbers(suite: Suite, rows: Sequence[Row], notes: list[str]) -> dict[str, Any]:
    """Return what the JSON says; null stands for what there is not."""
    from mbrl.runner.goals import paces

    found = {"suite": suite.name, "rows": [_row(row) for row in rows], "notes": notes}
    return found | {"goals": [_pace(pace) for pace in paces(rows)]}


def _pace(pace: Pace) -> dict[str, Any]:
    return {
        "task": pace.row.task.name,
        "agent": pace.row.agent,
        "goal": pace.goal,
        "seeds": [one._asdict() for one in pace.arrivals],
        "median_steps": pace.median,
        "median_seconds": pace.seconds,
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "task": row.task.name,
        "agent": row.agent,
        "env": row.task.env,
        "action_repeat": row.task.action_repeat,
        "seeds": row.seeds,
        "budget": row.budget,
        "steps": list(row.ours.steps) if row.ours else None,
        "scores": list(row.ours.scores) if row.ours else None,
        "iqm": float(row.ours.estimate.value) if row.ours else None,
        "interval": interval(row.ours.estimate) if row.ours else None,
        "failed": row.failed,
        "open": row.open,
        "bar": row.task.bar,
        "bar_steps": row.task.steps,
        "passed": row.passed,
        "seconds": round(row.seconds, 1),
        "machines": list(row.machines),
        "references": [_against(one) for one in row.against],
        "runs": [{"run_dir": str(run.path), "seed": run.seed, "reached": run.reached, "trouble": run.trouble or None}
                 for run in row.runs],
    }


def _against(one: Against) -> dict[str, Any]:
    ours = one.ours
    return one.reference._asdict() | {
        "at": "any" if one.reference.at is None else one.reference.at,
        "ours": float(ours.estimate.value) if ours else None,
        "interval": interval(ours.estimate) if ours else None,
        "steps": list(ours.steps) if ours else None,
        "difference": one.difference,
    }
