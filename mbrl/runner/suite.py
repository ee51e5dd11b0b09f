"""A suite: which agents learn which tasks for how long, and what others have published for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Reference(NamedTuple):
    """A score that somebody else states."""

    agent: str  # whose it is: a published method, or "optimum" and "random" where the environment itself knows
    score: float
    at: int | None  # env steps; None where it holds at any
    source: str  # the paper, or the file in a repository
    kind: str  # what of: a mean of some seeds, ...; "" where the source does not say


class Task(NamedTuple):
    """What is to be learned."""

    name: str
    env: str
    action_repeat: int | None  # None where the suite leaves it to each agent's experiment
    steps: int  # the budget in env steps, at which the bar counts; an agent may have its own
    seeds: int  # how many: 0, 1, and so on
    agents: Mapping[str, Mapping[str, Any]]  # by label: "experiment", "settings" and "steps", as far as they are given
    references: tuple[Reference, ...]
    bar: float | None  # the interquartile mean that passes
    goal: float | None = None  # the mean return of an evaluation that counts as learned, to be told how soon that is


class Suite(NamedTuple):
    """Tasks that are run together."""

    name: str
    about: str
    unavailable: str  # in words, why it cannot be run yet; "" if it can
    tasks: tuple[Task, ...]
