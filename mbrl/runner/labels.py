"""What runs are called beside each other: by the settings that tell them apart, and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mbrl.runner.checks import MAY_CHANGE

Settings: TypeAlias = Mapping[str, Any]  # a run's config, by dotted key

# What tells no two agents apart, beside what may change while a run goes on.
_ALIKE = (*MAY_CHANGE, "seed", "devices")
_PLANNER = "agent.planner.name"
_SPELLED = {"None": "null", "True": "true", "False": "false"}  # as in YAML


def task_labels(runs: Sequence[Settings]) -> list[str]:
    """Return each run's task: the environment's name, and the settings that tell it apart from others of that name."""
    names = [str(run["env.name"]) for run in runs]
    labels = []
    for run, name in zip(runs, names, strict=True):
        alike = [other for other, theirs in zip(runs, names, strict=True) if theirs == name]
        labels.append(_label(name, run, [key for key in _differing(alike) if key.startswith("env.")])[0])
    return labels


def agent_labels(runs: Sequence[Settings]) -> list[tuple[str, dict[str, Any]]]:
    """Return each run's agent: its name, and the settings that tell it apart, which are also returned by themselves.

    Those are the settings that differ on any one task between runs of agents of that name; what only differs from
    task to task is how the one agent was set up for each.
    """
    tasks, keys = task_labels(runs), {}
    by_name_and_task: dict[tuple[str, str], list[Settings]] = {}
    for run, task in zip(runs, tasks, strict=True):
        by_name_and_task.setdefault((run["agent.name"], task), []).append(run)
    for (name, _), alike in by_name_and_task.items():
        keys.setdefault(name, {}).update(dict.fromkeys(_differing(alike)))
    return [_label(run["agent.name"], run, list(keys[run["agent.name"]])) for run in runs]


def _differing(runs: Sequence[Settings]) -> list[str]:
    """Return the settings in which some of the runs differ; those of a planner count among runs that have it."""
    keys = dict.fromkeys(key for run in runs for key in run if not key.startswith(_ALIKE))
    differing = []
    for key in keys:
        values: dict[Any, set[str]] = {}
        for run in runs:
            group = _setting(run, _PLANNER) if key.startswith("agent.planner.") and key != _PLANNER else None
            values.setdefault(group, set()).add(repr(_setting(run, key)))
        if any(len(found) > 1 for found in values.values()):
            differing.append(key)
    return differing


def _setting(run: Settings, key: str) -> Any:
    """Return a setting, which another agent's run may lack."""
    return run.get(key, "unset")


def _label(name: str, run: Settings, keys: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the name with the run's values of some settings, each under the shortest end of its key that is unique."""
    told = {key: _setting(run, key) for key in keys}
    groups = [key.removesuffix(".name") for key in keys]  # a group stands for its name, as where it is set
    spelled = []
    for key, value in zip(groups, told.values(), strict=True):
        parts = key.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        short = next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in groups) == 1)
        spelled.append(f"{short}={_SPELLED.get(repr(value), value)}")
    return (f"{name} ({', '.join(spelled)})" if spelled else name), told
