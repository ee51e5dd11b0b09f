"""Planners: searching inside a world model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from mbrl.core.errors import UserError, unknown
from mbrl.planners.alone import Alone
from mbrl.planners.base import Cost, NoPlannerConfig, Plan, Planner, Problem, from_model, with_cost
from mbrl.planners.gradient import GradientConfig, GradientPlanner
from mbrl.planners.mcts import MCTS, MCTSConfig
from mbrl.planners.shooting import Shooting, ShootingConfig
from mbrl.planners.soft_tree import SoftTree, SoftTreeConfig


class PlannerEntry(NamedTuple):
    """A registry line: ``make(config, problem) -> Planner``, and the config's defaults."""

    config: Any
    make: Callable[[Any, Problem], Planner]


_CEM = ShootingConfig("cem", samples=256, horizon=5, elites=32, policy_samples=0, weighting="alike", max_std=1.0)

PLANNERS: dict[str, PlannerEntry] = {
    "cem": PlannerEntry(dataclasses.replace(_CEM, shift=False), Shooting),
    "gradient": PlannerEntry(GradientConfig(), GradientPlanner),
    "icem": PlannerEntry(dataclasses.replace(_CEM, name="icem", colour=2.0, kept=8, choose="best"), Shooting),
    "mctx": PlannerEntry(MCTSConfig(), MCTS),
    "mppi": PlannerEntry(ShootingConfig(), Shooting),
    "random": PlannerEntry(
        ShootingConfig(
            "random", samples=1024, horizon=3, iterations=1, elites=32, policy_samples=0, weighting="alike",
            shift=False, uniform=True, choose="best",
        ),
        Shooting,
    ),
    "soft_tree": PlannerEntry(SoftTreeConfig(), SoftTree),
}

_ALL = PLANNERS | {"none": PlannerEntry(NoPlannerConfig(), Alone)}

__all__ = [
    "PLANNERS", "Cost", "NoPlannerConfig", "Plan", "Planner", "PlannerEntry", "Problem", "config_of", "from_model",
    "make", "with_cost",
]


def config_of(name: str) -> Any:
    """Return the config of a planner as it is where nothing of it is set; of `none` that of the policy alone.

    Args:
        name: of ``PLANNERS``, or `none`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in _ALL:
        raise unknown("planner", name, _ALL)
    return _ALL[name].config


def make(config: Any, problem: Problem) -> Planner:
    """Return the planner that a config describes.

    Raises:
        UserError: there is none of that name, the config is another planner's, its numbers are out of range, or the
            problem lacks what it needs.
    """
    kind = type(config_of(config.name))
    if not isinstance(config, kind):
        raise UserError(f"planner {config.name} is described by a {kind.__name__}; got a {type(config).__name__}")
    return _ALL[config.name].make(config, problem)
