"""Run folders side by side: what each run scored, which of them belong together, and what that says of the agents.

A run here is one seed: a folder whose config has `seeds: N` holds N of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real

from mbrl.agents.base import leeway
from mbrl.core.errors import UserError
from mbrl.evaluation import comparison as judge
from mbrl.evaluation.comparison import Estimate
from mbrl.runner.config import up_to_date
from mbrl.runner.iterations import iteration
from mbrl.runner.labels import agent_labels, task_labels
from mbrl.runner.loggers import Values, scan_metrics
from mbrl.runner.rundir import RunDir

_SCORE = "eval/return_mean"
_FAULTS = "fault/updates", "fault/physics"
_BROKEN = "fault/policy"  # a guest's is not finite, which no run survives
_TAUS = 201
# Of a return, which a run adds up in float32; no figure can be drawn of what is near the end of float64.
_LARGEST = float(np.finfo(np.float32).max)


class Run(NamedTuple):
    """One seed of a run's folder."""

    path: Path
    seed: int
    settings: Mapping[str, Any]  # the config, by dotted key
    steps: Real[np.ndarray, "T"]  # env steps of its evaluations
    returns: Float[np.ndarray, "T"]  # their mean returns
    reached: int  # env steps of the last line it logged
    short: str  # in words, that it ended before its last step; "" otherwise
    trouble: str  # in words, what else went wrong; "" if nothing did


class Scored(NamedTuple):
    """A run and its score: its latest evaluation within the env steps that are compared."""

    run: Run
    score: float | None  # None where there is no evaluation
    step: int | None  # env steps at which it was evaluated
    failed: bool  # by faults, or short of what is compared, or without a number at its end
    trouble: str  # in words, what is wrong; "" if nothing is


class Row(NamedTuple):
    """The runs of one agent on one task."""

    task: str
    agent: str  # its name, and what tells it apart from others of that name
    differs: Mapping[str, Any]  # the settings that do so
    runs: tuple[Scored, ...]
    estimate: Estimate | None  # the interquartile mean of the scores; None where there is none

    @property
    def scores(self) -> Float[np.ndarray, "N"]:
        """The scores there are."""
        return np.array([one.score for one in self.runs if one.score is not None], np.float64)


class Scale(NamedTuple):
    """What counts as 0 and as 1 on a task."""

    low: float
    high: float
    given: bool  # by whoever compares, rather than the smallest and largest score


class Pair(NamedTuple):
    """How probable it is that a run of one agent is better than a run of another."""

    better: str
    than: str
    tasks: tuple[str, ...]  # those that both were run on
    estimate: Estimate


class Overall(NamedTuple):
    """What normalised scores say of agents on the tasks that all of them were run on."""

    tasks: tuple[str, ...]
    taus: Float[np.ndarray, "K"]
    means: Mapping[str, Estimate]  # by agent, the interquartile mean over all tasks' runs
    profiles: Mapping[str, Estimate]  # by agent, the share of runs above each tau [K]


class Comparison(NamedTuple):
    """Everything that is told of the runs."""

    rows: tuple[Row, ...]
    scale: Mapping[str, Scale]  # by task
    overall: Overall | None  # None of one agent on one task, and where there is no task that all were run on
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]  # sentences on what the reader might not expect

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents, in the order in which they were given."""
        return tuple(dict.fromkeys(row.agent for row in self.rows))


def read(run: RunDir, settings: Mapping[str, Any]) -> tuple[list[Run], list[str]]:
    """Return the runs, one for each seed, of a folder, and a sentence where a part of its metrics cannot be read.

    Args:
        run: the folder.
        settings: what its ``config.yaml`` says, by dotted key.

    Raises:
        UserError: a setting that every run has is missing or of another type.
    """
    for key, kind in {"env.name": str, "agent.name": str, "seed": int, "steps": int, "max_faults": int}.items():
        if not isinstance(settings.get(key), kind):
            given = repr(settings[key]) if key in settings else "missing"
            what = "text" if kind is str else "a whole number"
            raise UserError(f"{run.config}: {key} is {given}, but the config of a run has {what} there")
    settings = up_to_date(settings)
    rows, broken = scan_metrics(run)
    notes = []
    if broken:
        where = "is cut short in" if broken == [len(rows) + 1] else "cannot be read in"
        lines = f"line {', '.join(map(str, broken[:5]))}{' and others' if len(broken) > 5 else ''}"
        notes.append(f"{run.metrics} {where} {lines}; the other {len(rows)} lines are used")
    seeds = settings.get("seeds", 1)
    numbers: list[int | None] = list(range(seeds)) if isinstance(seeds, int) and seeds > 1 else [None]
    return [_run(run.path, settings, rows, number) for number in numbers], notes


def _run(path: Path, settings: Mapping[str, Any], rows: list[Values], number: int | None) -> Run:
    """Return a run; of a folder of several seeds the one at ``number``."""
    found = {row["step"]: _value(row, number) for row in rows if _SCORE in row}
    known = {step: found[step] for step in sorted(found) if found[step] is not None}
    reached = max((row["step"] for row in rows), default=0)
    where = f"at {reached:,} of {settings['steps']:,} env steps"
    faulty = bool(rows) and faults(rows[-1]) > settings["max_faults"]
    lost = bool(found) and max(found) not in known
    return Run(
        path=path,
        seed=settings["seed"] + (number or 0),
        settings=settings,
        steps=np.array(list(known), np.int64),
        returns=np.array(list(known.values()), np.float64),
        reached=reached,
        short=f"ends {where}" if reached < settings["steps"] and not faulty else "",
        trouble=_join(f"stopped by faults {where}" * faulty, "its latest evaluation is not finite" * lost),
    )


def _join(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def _value(row: Values, number: int | None) -> float | None:
    """Return a line's score, None where it is not a finite number."""
    value = row[_SCORE]
    if number is not None:
        seeds = row.get("seeds")
        each = seeds.get(_SCORE) if isinstance(seeds, dict) else None
        value = each[number] if isinstance(each, list) and number < len(each) else None
    return _finite(value)


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= _LARGEST else None


def faults(row: Values) -> float:
    """Return how many faults a line tells of, infinity where the policy broke; of several seeds all of theirs."""
    if _finite(row.get(_BROKEN)):
        return math.inf
    seeds = row.get("seeds")
    counts = [seeds.get(name) for name in _FAULTS] if isinstance(seeds, dict) else [[row.get(name)] for name in _FAULTS]
    return math.fsum(_finite(count) or 0 for each in counts if isinstance(each, list) for count in each)


def compare(runs: Sequence[Run], reference: Mapping[str, tuple[float, float]] | None = None) -> Comparison:
    """Group runs by task and agent, and compare the agents.

    Runs of different budgets on a task are compared at the smallest of them. A run that ended early stands with
    its latest evaluation.

    Args:
        runs: at least one.
        reference: by task, the scores that count as 0 and as 1; None, or a task without, takes the smallest and the
            largest score of the runs on it.

    Raises:
        UserError: none of the runs was evaluated.
    """
    settings = [run.settings for run in runs]
    tasks, agents = task_labels(settings), agent_labels(settings)
    notes = [*_twins(runs, tasks, agents)]
    scored: dict[tuple[str, str], list[Scored]] = {}
    ends = {}
    for task in dict.fromkeys(tasks):
        ends[task], note = _end(task, [run for run, name in zip(runs, tasks, strict=True) if name == task])
        notes += [note] if note else []
    differs: dict[str, Mapping[str, Any]] = {}
    for run, task, (agent, apart) in zip(runs, tasks, agents, strict=True):
        scored.setdefault((task, agent), []).append(_score(run, ends[task]))
        differs[agent] = apart
    rows = tuple(
        _row(task, agent, differs[agent], scored[task, agent])
        for task in ends for agent in differs if (task, agent) in scored
    )
    if not any(row.scores.size for row in rows):
        raise UserError(
            f"none of the runs was evaluated: a finite {_SCORE} is not to be found in the metrics.jsonl of "
            f"{', '.join(dict.fromkeys(str(run.path) for run in runs))}; compare runs that were evaluated once at least"
        )
    scale, told = _scale(rows, reference)
    notes += [note for task in ends if (note := _apart(task, rows))]
    return Comparison(rows, scale, _overall(rows, scale), _pairs(rows, scale), (*notes, *told))


def _twins(runs: Sequence[Run], tasks: Sequence[str], agents: Sequence[tuple[str, Any]]) -> list[str]:
    """Return a sentence for each run that repeats another one's seed."""
    first: dict[tuple[str, str, int], Run] = {}
    notes = []
    for run, task, (agent, _) in zip(runs, tasks, agents, strict=True):
        other = first.setdefault((task, agent, run.seed), run)
        if other is not run:
            notes.append(
                f"{other.path} and {run.path} are both seed {run.seed} of {agent} on {task}; they count as two runs, "
                "and intervals are too narrow if they are the same"
            )
    return notes


def _end(task: str, runs: Sequence[Run]) -> tuple[int, str]:
    """Return the env steps at which a task's runs are compared, and a sentence where their budgets differ.

    Runs end with a whole epoch, at or after their budget, and are evaluated there.
    """
    budgets = sorted({run.settings["steps"] for run in runs})
    smallest = [int(run.steps[-1]) for run in runs if run.settings["steps"] == budgets[0] and run.steps.size]
    if len(budgets) == 1:
        return max([budgets[0], *(run.reached for run in runs)]), ""
    listed = f"{', '.join(f'{budget:,}' for budget in budgets[:-1])} and {budgets[-1]:,}"
    end = max([budgets[0], *smallest])
    taken = f"scores are taken at {end:,}, the largest step in common"
    return end, f"the runs on {task} have budgets of {listed} env steps; {taken}"


def _score(run: Run, end: int) -> Scored:
    """Return a run with the latest of its evaluations up to ``end``."""
    within = run.steps <= end
    # A run that was to go on beyond the end and got that far is as whole as the comparison needs it.
    trouble = _join(run.trouble, run.short if run.reached < end else "")
    if not within.any():
        return Scored(run, None, None, bool(trouble), _join(trouble, f"no evaluation up to {end:,} env steps"))
    return Scored(run, float(run.returns[within][-1]), int(run.steps[within][-1]), bool(trouble), trouble)


def _apart(task: str, rows: Sequence[Row]) -> str:
    """Return a sentence where agents were scored further apart than 5 % or an iteration, which no run can help."""
    last: dict[str, Scored] = {}
    for row in (row for row in rows if row.task == task):
        whole = [one for one in row.runs if one.step is not None and not one.failed]
        if whole:
            last[row.agent] = max(whole, key=_step)
    least, most = (found(last, key=lambda agent: _step(last[agent]), default="") for found in (min, max))
    if not last or _step(last[most]) <= (low := _step(last[least])) + leeway(low, iteration(last[most].run.settings)):
        return ""
    return (
        f"the scores on {task} are not of the same env steps: {least} was scored at {low:,} and {most} at "
        f"{_step(last[most]):,}"
    )


def _step(scored: Scored) -> int:
    return scored.step or 0


def _row(task: str, agent: str, differs: Mapping[str, Any], runs: list[Scored]) -> Row:
    row = Row(task, agent, differs, tuple(runs), None)
    return row._replace(estimate=judge.estimate([row.scores], judge.pooled_mean)) if row.scores.size else row


def _scale(
    rows: Sequence[Row], reference: Mapping[str, tuple[float, float]] | None
) -> tuple[dict[str, Scale], list[str]]:
    """Return what scores are normalised by, and a sentence for each task that the reference lacks."""
    scale, notes = {}, []
    for task in dict.fromkeys(row.task for row in rows):
        scores = np.concatenate([row.scores for row in rows if row.task == task])
        environment = task.partition(" (")[0]
        given = reference or {}
        if task in given or environment in given:
            scale[task] = Scale(*given.get(task, given.get(environment, (0.0, 1.0))), True)
        elif scores.size:
            scale[task] = Scale(float(scores.min()), float(scores.max()), False)
        if reference is not None and task in scale and not scale[task].given:
            notes.append(f"the scale says nothing of {task}; its smallest and largest score are taken as 0 and 1")
    return scale, notes


def _strata(rows: Sequence[Row], scale: Mapping[str, Scale], agent: str) -> dict[str, Float[np.ndarray, "N"]]:
    """Return an agent's normalised scores by task."""
    own = [row for row in rows if row.agent == agent and row.scores.size]
    return {row.task: judge.normalise(row.scores, scale[row.task].low, scale[row.task].high) for row in own}


def _overall(rows: Sequence[Row], scale: Mapping[str, Scale]) -> Overall | None:
    agents = {row.agent: _strata(rows, scale, row.agent) for row in rows}
    agents = {agent: strata for agent, strata in agents.items() if strata}
    tasks = tuple(task for task in scale if all(task in strata for strata in agents.values()))
    if not tasks or (len(agents) == 1 and len(tasks) == 1):
        return None
    chosen = {agent: [strata[task] for task in tasks] for agent, strata in agents.items()}
    every = np.concatenate([scores for strata in chosen.values() for scores in strata])
    taus = np.linspace(min(0.0, every.min()), max(1.0, every.max()), _TAUS)
    means = {agent: judge.estimate(strata, judge.pooled_mean) for agent, strata in chosen.items()}
    above = lambda strata: judge.performance_profile(strata, taus)
    return Overall(tasks, taus, means, {agent: judge.estimate(strata, above) for agent, strata in chosen.items()})


def _pairs(rows: Sequence[Row], scale: Mapping[str, Scale]) -> tuple[Pair, ...]:
    """Return every two agents that share a task; the one that is more probably the better stands first."""
    agents = {row.agent: _strata(rows, scale, row.agent) for row in rows}
    pairs = []
    for one, other in itertools.combinations(agents, 2):
        tasks = tuple(task for task in scale if task in agents[one] and task in agents[other])
        if not tasks:
            continue
        x, y = ([agents[name][task] for task in tasks] for name in (one, other))
        found = judge.estimate_improvement(x, y)
        if found.value < 0.5:
            pairs.append(Pair(other, one, tasks, judge.estimate_improvement(y, x)))
        else:
            pairs.append(Pair(one, other, tasks, found))
    return tuple(pairs)
