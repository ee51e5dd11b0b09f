"""From a YAML file and overrides to one frozen, typed ``Config``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mbrl.cli import experiments, parsing
from mbrl.core.errors import UserError, unknown
from mbrl.runner import rundir, yaml_file
from mbrl.runner.config import Config, up_to_date

DEFAULT_AGENT = "dreamer"


def load(path: str | Path | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config[Any]:
    """Return the experiment in a YAML file, with overrides on top.

    Args:
        path: a YAML file, a run's folder (its `config.yaml`), a short name such as `quickstart`, or None for the
            defaults.
        overrides: either words of a command line, `["--seed", "3", "--env", "brax/hopper"]`, or a mapping with dotted
            keys or nested mappings, `{"seed": 3, "agent.behaviour.horizon": 10}`.

    Raises:
        UserError: a file, key or value that is not right; the sentence says what would be.
    """
    file = None if path is None else experiments.find(str(path))
    written = [] if file is None else yaml_file.read(file)
    if file is not None and _is_of_run(file):  # which goes on as it began
        written = [*up_to_date(dict(written)).items()]
    agent, said = _named("agent", written, overrides, f"{file}: ")
    entry = _entry(agent or DEFAULT_AGENT, said)
    planner, _ = _named("agent.planner", (), overrides, "")
    before, where = _named("agent.planner", written, (), f"{file}: ")
    config = _unwritten(entry, planner or before, "" if planner else where)
    cls = _type(entry, config)
    known = parsing.leaves(cls)
    # What is written of one planner says nothing of another.
    if planner and planner != (before or _unwritten(entry).agent.planner.name):
        written = [(key, value) for key, value in written if not key.startswith("agent.planner")]
    if file is not None:
        config = parsing.parse(cls, _words(written, known, f"{file}: "), config, label=f"{file}: ")
    if isinstance(overrides, Mapping):
        return parsing.parse(cls, _words(yaml_file.flatten(dict(overrides)), known, ""), config, label="")
    rest, given = parsing.split(overrides, known)
    if rest:
        raise UserError(f"cannot place {rest[0]!r}; an option is written as in '--seed 3'")
    return parsing.parse(cls, given, config)


def _is_of_run(file: Path) -> bool:
    """Whether a config was written by a run: it has the name of such a one, and metrics or saves lie beside it."""
    run = rundir.RunDir(file.parent)
    return file.name == run.config.name and (run.metrics.exists() or run.checkpoints.exists())


def load_run(run_dir: str) -> Config[Any]:
    """Return the config of a run.

    Raises:
        UserError: no run's folder; the sentence has the nearest one.
    """
    return load(rundir.existing(Path(run_dir)).config)


def config_type(agent: str, planner: str = "") -> Any:
    """Return ``Config`` for the agent of that name.

    Args:
        agent: its name.
        planner: that of the planner which acts in its place, of an agent that plans; else its own choice.

    Raises:
        UserError: no such agent or planner, or the agent cannot have it.
    """
    entry = _entry(agent)
    return _type(entry, _unwritten(entry, planner))


def type_of(config: Config[Any]) -> Any:
    """Return the ``Config`` type of a config."""
    return _type(_entry(config.agent.name), config)


def planner_of(config: Config[Any], name: str) -> Any:
    """Return the config of a planner as a run has it: its own, if it plans with that one; else as its agent has it.

    Either way it is without the noise that explores in training.

    Raises:
        UserError: there is none of that name.
    """
    from mbrl.agents.searching import settled  # bring jax with them, which the command line's own help does without
    from mbrl.planners import config_of

    own, planners = getattr(config.agent, "planner", None), _planners(_entry(config.agent.name))
    if getattr(own, "name", "") == name:
        return settled(own)
    return settled(planners[name] if name in planners else config_of(name))


def _entry(name: str, label: str = "") -> Any:
    """Return an agent's registry line; ``label`` precedes an error: where the name was written."""
    from mbrl.agents import AGENTS  # an agent brings jax with it, which the command line's own help does without

    if name not in AGENTS:
        raise UserError(f"{label}{unknown('agent', name, AGENTS)}")
    return AGENTS[name]


def _planners(entry: Any) -> Mapping[str, Any]:
    """Return the planners that an agent takes, as it has them: of a line that says nothing its own, if it has one."""
    own = getattr(entry.config(), "planner", None)
    return getattr(entry, "planners", {}) or ({} if own is None else {own.name: own})


def _unwritten(entry: Any, planner: str = "", label: str = "") -> Config[Any]:
    """Return what the config of an agent is where nothing was written but its planner's name, after ``label``."""
    generic, planners, own = cast(Any, Config), _planners(entry), entry.config()
    if not planner:
        return generic(agent=own)
    if not planners:
        raise UserError(f"{label}agent.planner is {planner!r}, but {own.name} does not plan; take an agent that does")
    if planner not in planners:
        nearest = unknown(f"agent.planner of {own.name}", planner, planners)
        raise UserError(f"{label}{nearest}")
    return generic(agent=entry.config(planner=planners[planner]))


def _type(entry: Any, config: Config[Any]) -> Any:
    """Return the type of an agent's ``Config``, which of a generic agent has the fields of the planner it has."""
    generic, kind = cast(Any, Config), entry.config
    return generic[kind[type(cast(Any, config.agent).planner)] if getattr(kind, "__parameters__", ()) else kind]


def _named(
    key: str, written: Iterable[tuple[str, Any]], overrides: Sequence[str] | Mapping[str, Any], file: str
) -> tuple[str, str]:
    """Return the name that was written last under a key, which decides what else may be set; and ``file`` if there."""
    keys = {key, f"{key}.name"}
    in_file = [value for at, value in written if at in keys and value]
    names = []
    if isinstance(overrides, Mapping):
        names = [value for at, value in yaml_file.flatten(dict(overrides)) if at in keys]
    else:
        for token, following in zip(overrides, [*overrides, ""][1:], strict=True):
            name, equals, value = token.partition("=")
            if name in {f"--{at}" for at in keys}:
                names.append(value if equals else following)
    if names:
        return str(names[-1]), ""
    return (str(in_file[-1]), file) if in_file else ("", "")


def _words(settings: Iterable[tuple[str, Any]], known: parsing.Leaves, label: str) -> parsing.Words:
    """Return settings as the words a command line would have had for them."""
    words: parsing.Words = {}
    for key, value in settings:
        if value in (None, {}) and parsing.is_group(key.replace("-", "_"), known):
            continue  # a group whose lines are all commented out
        name = parsing.canonical(key, known, label)
        if name in words:
            raise UserError(f"{label}{name} is given twice; keep one of the two")
        words[name] = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
    return words
