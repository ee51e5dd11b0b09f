"""How far beyond the env steps asked for a run may be: it trains in whole iterations, epochs or those of a guest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mbrl.agents import AGENTS, GuestEntry
from mbrl.agents.base import leeway
from mbrl.runner.config import Config


def iteration(settings: Mapping[str, Any]) -> int:
    """Return the env steps of an iteration of a run: an epoch's, or one's of a guest's loop; 0 where it is not known.

    Args:
        settings: what the run's ``config.yaml`` says, by dotted key.
    """
    entry, repeat = AGENTS.get(settings["agent.name"]), settings.get("env.action_repeat", 1)
    try:
        if isinstance(entry, GuestEntry):
            own = {field.name for field in dataclasses.fields(entry.config)}
            written = {key.removeprefix("agent."): value for key, value in settings.items() if key.startswith("agent.")}
            agent = entry.config(**{key: value for key, value in written.items() if key in own})
            found = entry.iteration(agent, settings.get("num_envs", Config.num_envs), repeat)
        else:
            found = settings["epoch"] * repeat
    except (KeyError, TypeError, ArithmeticError):  # settings that no run has
        return 0
    return found if isinstance(found, int) and found > 0 else 0


def last_of(settings: Mapping[str, Any], steps: int) -> int:
    """Return the last env step at which a run is held to be one of ``steps`` env steps.

    Args:
        settings: what the run's ``config.yaml`` says, by dotted key.
        steps: env steps asked for.
    """
    own = iteration(settings)
    if isinstance(AGENTS.get(settings["agent.name"]), GuestEntry):
        return steps + leeway(steps, own)
    return steps + max(own - 1, 0)
