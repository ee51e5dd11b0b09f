"""A sweep: which settings of an experiment are searched, by what, and what became of each trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["uniform", "log_uniform", "int", "choice"]
Sampler: TypeAlias = Literal["tpe", "random", "grid"]
Scheduler: TypeAlias = Literal["none", "asha", "pbt"]
State: TypeAlias = Literal["waiting", "running", "done", "stopped", "failed"]
Params: TypeAlias = Mapping[str, float | int | str | bool]


class Range(NamedTuple):
    """What one setting may be."""

    kind: Kind
    values: tuple[Any, ...]  # lowest and highest, or the choices


class Sweep(NamedTuple):
    """Many runs of one experiment."""

    name: str
    about: str
    experiment: str
    settings: Mapping[str, Any]  # by dotted key, the same in every run
    space: Mapping[str, Range]  # by dotted key
    metric: str  # a name in metrics.jsonl; a trial's score is the latest
    mode: Literal["max", "min"]
    trials: int
    parallel: int  # runs side by side
    sampler: Sampler
    scheduler: Scheduler
    grace: int  # env steps before the scheduler may end a trial, or between two changes of a population
    reduction: int  # one trial in so many goes on to the next rung
    seed: int  # of the search
    steps: int  # env steps of a whole run
    slurm: Mapping[str, Any]  # what submitit's executor is told
    ray: Mapping[str, float | int]  # what a trial takes of Ray's resources: cpu, gpu


class Outcome(NamedTuple):
    """What became of one trial."""

    number: int
    params: Params
    run: Path
    state: State  # stopped: the scheduler gave it up
    score: float | None  # the metric's latest value
    steps: int  # env steps at that value
    trouble: str = ""


def words(sweep: Sweep, params: Params) -> list[str]:
    """Return the words for `mbrl train` that set what a trial has of its own, and what all have."""
    return [word for key, value in {**sweep.settings, **params}.items() for word in _option(key, value)]


def _option(key: str, value: Any) -> list[str]:
    """Return one setting's words: a list has one for each of its entries."""
    return [f"--{key}", *map(_word, value)] if isinstance(value, list) else [f"--{key}={_word(value)}"]


def _word(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def ranked(outcomes: list[Outcome], mode: str) -> list[Outcome]:
    """Return trials, the best first, those that failed or have no score last."""
    sign = -1 if mode == "max" else 1
    last = lambda one: one.state == "failed" or one.score is None
    return sorted(outcomes, key=lambda one: (last(one), sign * (one.score or 0.0), one.number))
