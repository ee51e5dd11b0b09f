"""From a YAML file and overrides to one frozen, typed ``Config``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mbrl.cli import experiments, parsing, yaml_file
from mbrl.core.errors import UserError, unknown
from mbrl.runner.config import Config

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
    cls = config_type(*_agent_name(written, overrides, f"{file}: "))
    known = parsing.leaves(cls)
    config = None
    if file is not None:
        config = parsing.parse(cls, _words(written, known, f"{file}: "), label=f"{file}: ")
    if isinstance(overrides, Mapping):
        return parsing.parse(cls, _words(yaml_file.flatten(dict(overrides)), known, ""), config, label="")
    rest, given = parsing.split(overrides, known)
    if rest:
        raise UserError(f"cannot place {rest[0]!r}; an option is written as in '--seed 3'")
    return parsing.parse(cls, given, config)


def load_run(run_dir: str) -> Config[Any]:
    """Return the config of a run.

    Raises:
        UserError: no run's folder; the sentence has the nearest one.
    """
    from mbrl.runner import rundir

    return load(rundir.existing(Path(run_dir)).config)


def config_type(agent: str, label: str = "") -> Any:
    """Return ``Config`` for the agent of that name.

    Args:
        agent: its name.
        label: what precedes an error: where the name was written.

    Raises:
        UserError: no such agent.
    """
    from mbrl.agents import AGENTS  # an agent brings jax with it, which the command line's own help does without

    if agent not in AGENTS:
        raise UserError(f"{label}{unknown('agent', agent, AGENTS)}")
    generic: Any = Config
    return generic[AGENTS[agent].config]


def _agent_name(
    written: Iterable[tuple[str, Any]], overrides: Sequence[str] | Mapping[str, Any], file: str
) -> tuple[str, str]:
    """Return the agent's name, which decides what may be set: the last one that was written; and ``file`` if there."""
    in_file = [value for key, value in written if key in {"agent", "agent.name"} and value]
    names = []
    if isinstance(overrides, Mapping):
        names = [value for key, value in yaml_file.flatten(dict(overrides)) if key in {"agent", "agent.name"}]
    else:
        for token, following in zip(overrides, [*overrides, ""][1:], strict=True):
            name, equals, value = token.partition("=")
            if name in {"--agent", "--agent.name"}:
                names.append(value if equals else following)
    if names:
        return str(names[-1]), ""
    return (str(in_file[-1]), file) if in_file else (DEFAULT_AGENT, "")


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
