"""How soon runs came to a return that counts as learned: env steps and seconds, one agent beside another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mbrl.runner.compare import Run
from mbrl.runner.iterations import last_of
from mbrl.runner.loggers import read_metrics
from mbrl.runner.rundir import RunDir
from mbrl.runner.scores import Row


class Arrival(NamedTuple):
    """When a run was first evaluated at its task's goal or above."""

    seed: int
    steps: int | None  # env steps; None where it never was
    seconds: float | None  # of wall clock until then, compilation and evaluations included
    searched: int  # env steps of its last evaluation within the budget, 0 without one


class Pace(NamedTuple):
    """An agent's way to the goal of a task."""

    row: Row
    goal: float
    arrivals: tuple[Arrival, ...]  # one for each run there is

    @property
    def median(self) -> float | None:
        """Median env steps over the seeds asked for, where those that never arrived or are missing took forever."""
        return _median([one.steps for one in self.arrivals], self.row.seeds)

    @property
    def seconds(self) -> float | None:
        """Median seconds, likewise."""
        return _median([one.seconds for one in self.arrivals], self.row.seeds)

    def times(self, other: Pace) -> float | None:
        """How many times as many env steps as another agent this one needs, by their medians; None without both."""
        own, theirs = self.median, other.median
        return None if own is None or theirs is None else own / theirs


def paces(rows: Sequence[Row]) -> list[Pace]:
    """Return the ways to their goals, for those rows whose task has one."""
    return [
        Pace(row, row.task.goal, tuple(arrival(run, row.task.goal, row.budget) for run in row.runs))
        for row in rows if row.task.goal is not None
    ]


def arrival(run: Run, goal: float, budget: int) -> Arrival:
    """Return when a run was first evaluated at ``goal`` or above, within its budget of env steps.

    A run is evaluated now and then, so it may have been there up to one interval earlier.
    """
    within = run.steps <= last_of(run.settings, budget)
    known, there = run.steps[within], run.returns[within] >= goal
    if not there.any():
        return Arrival(run.seed, None, None, int(known[-1]) if known.size else 0)
    steps = int(known[np.argmax(there)])
    rows = read_metrics(RunDir(run.path))
    seconds = math.fsum(row.get("time/epoch") or 0 for row in rows if (row["step"] or 0) <= steps)
    return Arrival(run.seed, steps, seconds, int(known[-1]))


def _median(found: Sequence[int | float | None], asked: int) -> float | None:
    every = sorted([math.inf if one is None else one for one in found] + [math.inf] * (asked - len(found)))
    low, high = every[(len(every) - 1) // 2], every[len(every) // 2]
    return (low + high) / 2 if math.isfinite(high) else None
