"""What the runs of a suite scored, beside what others have published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mbrl.evaluation import comparison as judge
from mbrl.evaluation.comparison import Estimate
from mbrl.runner import machine
from mbrl.runner.compare import Run
from mbrl.runner.iterations import last_of
from mbrl.runner.loggers import read_metrics
from mbrl.runner.rundir import RunDir
from mbrl.runner.suite import Reference, Task


class Ours(NamedTuple):
    """What our runs scored about some env step."""

    estimate: Estimate  # the interquartile mean over the seeds
    scores: tuple[float, ...]
    steps: tuple[int, ...]  # env steps of the evaluations that the scores come from


class Against(NamedTuple):
    """A published score and ours."""

    reference: Reference
    ours: Ours | None  # at the reference's env steps; None where our runs were not evaluated there

    @property
    def difference(self) -> float | None:
        """Ours minus theirs; None where the two are not of the same env steps."""
        return None if self.ours is None else float(self.ours.estimate.value) - self.reference.score


class Row(NamedTuple):
    """An agent on a task."""

    task: Task
    agent: str
    seeds: int  # how many were asked for
    budget: int  # env steps they were to be run for
    runs: tuple[Run, ...]  # those there are
    ours: Ours | None  # at the budget, or at other env steps if not evaluated there; None where no run was evaluated
    against: tuple[Against, ...]
    passed: bool | None  # whether the bar was met; None where there is none, or nothing to hold it against
    seconds: float  # of all runs
    machines: tuple[str, ...]

    @property
    def failed(self) -> int:
        """How many runs ended by faults, without a number, or as their config or folder did not allow them."""
        return sum(bool(run.trouble) for run in self.runs)

    @property
    def open(self) -> int:
        """How many are not at their end yet, or not begun."""
        return self.seeds - sum(run.reached >= self.budget or bool(run.trouble) for run in self.runs)


def judged(task: Task, agent: str, runs: Sequence[Run], seeds: int, budget: int) -> Row:
    """Judge the runs of an agent on a task.

    A run scores the evaluation at the env steps asked for: the first one there or less than an epoch later, as runs
    are evaluated after whole epochs. A guest has none: there it is less than an iteration of its loop, or a twentieth
    of those env steps. A run that failed stands with the latest it had.

    Args:
        task: what was learned.
        agent: its label in the suite.
        runs: those there are, of the seeds asked for.
        seeds: how many were asked for.
        budget: env steps they were to be run for.
    """
    latest = [found for run in runs if (found := _nearest(run, budget)) is not None]
    ours = _ours(latest) if latest else None
    against = tuple(Against(one, ours if one.at is None else _at(runs, one.at)) for one in task.references)
    passed = None
    if task.bar is not None and len(runs) == seeds and (found := _at(runs, task.steps)) is not None:
        passed = bool(found.estimate.value >= task.bar)
    folders = [RunDir(run.path) for run in runs if run.reached]  # the others have logged nothing, or nothing to read
    seconds = math.fsum(row.get("time/epoch") or 0 for folder in folders for row in read_metrics(folder))
    machines = tuple(dict.fromkeys(name for folder in folders for name in machine.machines(folder)))
    return Row(task, agent, seeds, budget, tuple(runs), ours, against, passed, seconds, machines)


def _at(runs: Sequence[Run], at: int) -> Ours | None:
    """Return what all runs scored at some env steps, None if there is one that was not evaluated there."""
    found = []
    for run in runs:
        failed_before = run.trouble and not (run.steps >= at).any()
        found.append(_latest(run, at) if failed_before else _there(run, at))
    return _ours([one for one in found if one is not None]) if found and None not in found else None


def _nearest(run: Run, budget: int) -> tuple[float, int] | None:
    """Return a run's score at its budget, else its latest before, else its first one, and its env steps."""
    if (found := _there(run, budget) or _latest(run, budget)) is None and run.steps.size:
        return float(run.returns[0]), int(run.steps[0])
    return found


def _there(run: Run, at: int) -> tuple[float, int] | None:
    """Return the first score that is held to be of some env steps, and its own."""
    there = (run.steps >= at) & (run.steps <= last_of(run.settings, at))
    return (float(run.returns[there][0]), int(run.steps[there][0])) if there.any() else None


def _latest(run: Run, before: int) -> tuple[float, int] | None:
    """Return a run's latest score before some env step, and its own."""
    within = run.steps < before
    return (float(run.returns[within][-1]), int(run.steps[within][-1])) if within.any() else None


def _ours(found: Sequence[tuple[float, int]]) -> Ours:
    scores, steps = zip(*found, strict=True)
    return Ours(judge.estimate([np.array(scores)], judge.pooled_mean), scores, tuple(sorted(set(steps))))
