"""Reads suites: YAML files under `experiments/suites/` that say what is run on which tasks, and what others scored."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mbrl.cli import config as reader
from mbrl.cli import experiments, fields
from mbrl.core.errors import UserError, unknown
from mbrl.runner import yaml_file
from mbrl.runner.config import Config
from mbrl.runner.suite import Reference, Suite, Task

KIND = yaml_file.Kind("a suite", "experiments/suites/quick.yaml", "tasks: {cue: {env: probe/cue, steps: 5120}}")
_SHARED = ("action_repeat", "steps", "seeds", "agents")  # a suite's own are those of each task that has none
_REPEAT = "env.action_repeat"
_TAKEN = {"seed", "seeds", "run_dir", "env", "env.name", _REPEAT, "steps"}  # no settings of an agent


def names() -> dict[str, Path]:
    """Return every suite's file under its name."""
    files = (experiments.folder() / experiments.SUITES).glob("*")
    return {path.stem: path for path in sorted(files) if path.suffix in experiments.SUFFIXES}


def read(given: str) -> Suite:
    """Return a suite by its name, or by the path of its file.

    Raises:
        UserError: there is none, or its file is not right; the sentence says where.
    """
    known = names()
    if given not in known and not Path(given).is_file():
        raise unknown("suite", given, known)
    path = known.get(given) or Path(given)
    tree = yaml_file.read_tree(path, KIND)
    fields.check_keys(str(path), tree, ("name", "about", "unavailable", "tasks", *_SHARED))
    name = fields.text(f"{path}: name", tree.get("name"))
    if name != path.stem:
        raise UserError(f"{path}: name is {name!r}, but a suite is called as its file: {path.stem!r}")
    tasks = fields.mapping(f"{path}: tasks", tree.get("tasks"))
    about = fields.text(f"{path}: about", tree.get("about"))
    unavailable = fields.text(f"{path}: unavailable", tree["unavailable"]) if "unavailable" in tree else ""
    shared = {key: tree[key] for key in _SHARED if key in tree}
    return Suite(name, about, unavailable, tuple(_task(path, str(key), value, shared) for key, value in tasks.items()))


def _task(path: Path, name: str, given: Any, shared: Mapping[str, Any]) -> Task:
    place = f"{path}: tasks.{name}"
    own = fields.mapping(place, given)
    fields.check_keys(place, own, ("env", "references", "bar", "goal", *_SHARED))
    tree = {"seeds": 1, **shared, **own}
    references = tree.get("references") or []
    if not isinstance(references, list):
        raise UserError(f"{place}.references is no list; it holds lines such as '- {{agent: ..., score: ..., ...}}'")
    agents = {
        str(label): _agent(f"{place}.agents.{label}", setup)
        for label, setup in fields.mapping(f"{place}.agents", tree.get("agents")).items()
    }
    repeat = fields.whole(f"{place}.action_repeat", tree["action_repeat"]) if "action_repeat" in tree else None
    return Task(
        name=name,
        env=fields.text(f"{place}.env", tree.get("env")),
        action_repeat=repeat,
        steps=_steps(place, tree, agents),
        seeds=fields.whole(f"{place}.seeds", tree["seeds"]),
        agents=agents,
        references=tuple(_reference(f"{place}.references[{i}]", one) for i, one in enumerate(references)),
        bar=fields.number(f"{place}.bar", tree["bar"]) if "bar" in tree else None,
        goal=fields.number(f"{place}.goal", tree["goal"]) if "goal" in tree else None,
    )


def _steps(place: str, tree: Mapping[str, Any], agents: Mapping[str, Mapping[str, Any]]) -> int:
    """Return a task's env steps, which need not be said where each of its agents has its own."""
    own = [setup["steps"] for setup in agents.values() if "steps" in setup]
    if "steps" not in tree and len(own) == len(agents):
        return max(own)
    return fields.whole(f"{place}.steps", tree.get("steps"))


def _agent(place: str, given: Any) -> Mapping[str, Any]:
    setup = fields.mapping(place, given)
    fields.check_keys(place, setup, ("experiment", "settings", "steps"))
    if "experiment" in setup:
        fields.text(f"{place}.experiment", setup["experiment"])
    if "settings" in setup:
        fields.mapping(f"{place}.settings", setup["settings"])
    return {**setup, "steps": fields.whole(f"{place}.steps", setup["steps"])} if "steps" in setup else setup


def _reference(place: str, given: Any) -> Reference:
    tree = fields.mapping(place, given)
    fields.check_keys(place, tree, ("agent", "score", "at", "source", "kind"))
    if not tree.get("source"):
        raise UserError(f"{place} has no source; say where the score stands: a paper, or owner/repo: file")
    at = tree.get("at")
    return Reference(
        agent=fields.text(f"{place}.agent", tree.get("agent")),
        score=fields.number(f"{place}.score", tree.get("score")),
        at=None if at == "any" else fields.whole(f"{place}.at", at, " env steps, or any where it holds at all of them"),
        source=fields.text(f"{place}.source", tree["source"]),
        kind=fields.text(f"{place}.kind", tree["kind"]) if "kind" in tree else "",
    )


def configs(
    suite: Suite, tasks: Collection[str], agents: Collection[str], budget: int | None
) -> list[tuple[Task, str, Config[Any]]]:
    """Return what is run: each agent on each task, with the agent's own repeat and env steps, and its config.

    Args:
        suite: the suite.
        tasks: the names of those to take; none for all.
        agents: the labels of those to take; none for all.
        budget: env steps in place of each task's own; None for those.

    Raises:
        UserError: no such task, agent, environment or experiment, or an experiment that does not fit.
    """
    _check_choice("task", tasks, [task.name for task in suite.tasks], suite)
    _check_choice("agent", agents, [label for task in suite.tasks for label in task.agents], suite)
    chosen = (
        (task._replace(steps=task.agents[label].get("steps", task.steps)), label)
        for task in suite.tasks if not tasks or task.name in tasks
        for label in task.agents if not agents or label in agents
    )
    found = ((task, label, _config(suite, task, label, budget or task.steps)) for task, label in chosen)
    return [(task._replace(action_repeat=config.env.action_repeat), label, config) for task, label, config in found]


def _config(suite: Suite, task: Task, label: str, steps: int) -> Config[Any]:
    from mbrl.agents import AGENTS  # these bring jax with them, which the command line's own help does without
    from mbrl.envs import registry
    from mbrl.envs.config import EnvConfig

    setup, name = task.agents[label], label.partition(" ")[0]
    settings = dict(yaml_file.flatten(setup.get("settings") or {}))
    try:
        if name not in AGENTS:
            raise unknown("agent", name, AGENTS)
        registry.check(EnvConfig(task.env, task.action_repeat or 1))
        _check_settings(settings)
        own = {"env.name": task.env, "steps": steps} | ({} if "experiment" in setup else {"agent.name": name})
        if task.action_repeat is not None and not _says_repeat(setup):
            own[_REPEAT] = task.action_repeat
        config = reader.load(setup.get("experiment"), settings | own)
        if task.action_repeat not in {None, config.env.action_repeat}:
            raise UserError(
                f"action_repeat is {task.action_repeat}, but its experiment has env.action_repeat "
                f"{config.env.action_repeat}; leave one of the two out"
            )
        if config.agent.name != name:
            raise UserError(f"its experiment is one of agent {config.agent.name!r}; call it that, with more behind it")
        if config.seeds != 1:
            raise UserError("its experiment trains several seeds in one program; each seed of a suite is a run")
    except UserError as error:
        raise UserError(f"suite {suite.name!r}, task {task.name!r}, agent {label!r}: {error}") from error
    return config


def _says_repeat(setup: Mapping[str, Any]) -> bool:
    """Whether an agent's experiment says how long actions are held."""
    if "experiment" not in setup:
        return False
    written = yaml_file.read(experiments.find(setup["experiment"]))
    return any(key.replace("-", "_") == _REPEAT for key, _ in written)


def _check_settings(settings: Mapping[str, Any]) -> None:
    for key in settings:
        if key in _TAKEN:
            raise UserError(f"settings hold {key}, which the suite itself says; leave it out there")


def _check_choice(thing: str, given: Iterable[str], there: Collection[str], suite: Suite) -> None:
    for name in given:
        if name not in there:
            raise unknown(f"{thing} of suite {suite.name!r}:", name, dict.fromkeys(there))
