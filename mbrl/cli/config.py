"""From a YAML file and overrides to one frozen, typed ``Config``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_origin

from mbrl.cli import experiments, parsing
from mbrl.core.errors import UserError, unknown
from mbrl.runner import rundir, yaml_file
from mbrl.runner.config import Config, came_later

DEFAULT_AGENT = "dreamer"
NO_PLANNER = "none"


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
    agent, said = _named("agent", written, overrides, f"{file}: ")
    planner, _ = _named("agent.planner", (), overrides, "")
    before, _ = _named("agent.planner", written, (), "")
    before = before or _own_planner(agent or DEFAULT_AGENT, said)
    cls = config_type(agent or DEFAULT_AGENT, planner or before, said)
    known = parsing.leaves(cls)
    config = _unwritten(cls, planner or before)
    if planner and planner != before:  # what is written of one planner says nothing of another
        written = [(key, value) for key, value in written if not key.startswith("agent.planner")]
    if file is not None and _is_of_run(file):  # which goes on as it began
        written = [*(came_later(agent or DEFAULT_AGENT) | dict(written)).items()]
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


def config_type(agent: str, planner: str = NO_PLANNER, label: str = "") -> Any:
    """Return ``Config`` for the agent of that name.

    Args:
        agent: its name.
        planner: that of the planner which acts in its place, of an agent that may have any.
        label: what precedes an error: where the agent's name was written.

    Raises:
        UserError: no such agent or planner.
    """
    generic, kind = cast(Any, Config), _agent(agent, label)
    return generic[kind[type(_planner(planner))] if _takes_any(kind) else kind]


def _agent(name: str, label: str) -> Any:
    """Return the config class of an agent."""
    from mbrl.agents import AGENTS  # an agent brings jax with it, which the command line's own help does without

    if name not in AGENTS:
        raise UserError(f"{label}{unknown('agent', name, AGENTS)}")
    return AGENTS[name].config


def _own_planner(agent: str, label: str) -> str:
    """Return the name of the planner that an agent has where none is written."""
    kind = _agent(agent, label)
    own = None if _takes_any(kind) else getattr(kind(), "planner", None)
    return getattr(own, "name", NO_PLANNER)


def type_of(config: Config[Any]) -> Any:
    """Return the ``Config`` type of a config."""
    agent: Any = config.agent
    return config_type(agent.name, agent.planner.name if _takes_any(type(agent)) else NO_PLANNER)


def _takes_any(agent: Any) -> bool:
    """Return whether an agent's config is generic: in the planner that acts in its place."""
    return bool(getattr(agent, "__parameters__", ()))


def _planner(name: str) -> Any:
    """Return the config of a planner as it is where nothing of it was written."""
    from mbrl.planners import config_of  # brings jax, likewise

    return config_of(name, "agent.planner")


def _unwritten(cls: Any, planner: str) -> Config[Any] | None:
    """Return what the config is where nothing was written; None where that is what the classes themselves say.

    An agent that always plans has numbers of its own for its planner; another one has those of the planner itself.
    """
    agent = get_args(cls)[0]
    if get_args(agent):
        return cls(agent=get_origin(agent)(planner=_planner(planner)))
    default = agent()
    own = getattr(default, "planner", None)
    if getattr(own, "name", planner) == planner:
        return None
    found, names = _planner(planner), _alike(own)
    if planner not in names:
        raise UserError(f"agent.planner of {default.name} must be one of {', '.join(names)}; got {planner!r}")
    return cls(agent=agent(planner=found))


def _alike(config: Any) -> list[str]:
    """Return the names of the planners that have the same settings."""
    from mbrl.planners import PLANNERS  # brings jax

    return [name for name, entry in PLANNERS.items() if type(entry.config) is type(config)]


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
