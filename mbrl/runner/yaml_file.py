"""Reads YAML into flat, dotted settings; loading never runs code."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mbrl.core.errors import UserError

# Beyond this no file is an experiment; PyYAML would spend minutes on one that is a thousand times larger.
MAX_BYTES = 256 * 1024


class Kind(NamedTuple):
    """What a file should have been, for the sentence that says it is not."""

    name: str
    file: str  # an example of one
    line: str  # an example of what one holds


EXPERIMENT = Kind("an experiment", "experiments/quickstart.yaml", "seed: 3")


def read(path: Path, kind: Kind = EXPERIMENT) -> list[tuple[str, Any]]:
    """Return the settings of a YAML file as (dotted key, value): `env: {name: x}` gives `("env.name", "x")`.

    Args:
        path: the file.
        kind: what it should be.

    Raises:
        UserError: the file cannot be read, is not YAML or not a mapping, or uses tags, anchors or a key twice.
    """
    settings = list(flatten(read_tree(path, kind)))
    for key, value in settings:
        if not isinstance(value, str | int | float | list | dict | datetime.date | None):
            raise UserError(f"{path}: {key} is a {type(value).__name__}, but must be a number, text, list or null")
    twice = [key for number, (key, _) in enumerate(settings) if key in dict(settings[:number])]
    if twice:
        raise UserError(f"{path}: {twice[0]} is given twice; keep one of the two")
    return settings


def read_tree(path: Path, kind: Kind = EXPERIMENT) -> dict[Any, Any]:
    """Return the mapping in a YAML file as it is nested.

    Args:
        path: the file.
        kind: what it should be.

    Raises:
        UserError: the file cannot be read, is not YAML or not a mapping, or uses tags or anchors.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path} is not a file; {kind.name} is a YAML file such as {kind.file}")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{path} has {size} bytes, but {kind.name} has at most {MAX_BYTES}")
        return parse(str(path), path.read_text(encoding="utf-8"), kind)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start}), so it is no YAML file") from error


def parse(name: str, text: str, kind: Kind = EXPERIMENT) -> dict[Any, Any]:
    """Return the mapping that a text holds as it is nested.

    Args:
        name: what the sentence calls it.
        text: the YAML.
        kind: what it should be.

    Raises:
        UserError: the text is too long, is not YAML or not a mapping, or uses tags or anchors.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{name} has {len(text)} characters, but {kind.name} has at most {MAX_BYTES}")
    try:
        tree = yaml.load(text, Loader=_Loader)  # the loader is a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{name}{_line(error)}: {_problem(error)}") from error
    except RecursionError as error:
        raise UserError(f"{name} is nested too deeply; {kind.name} has a handful of levels") from error
    except ValueError as error:  # a date or a number that Python refuses
        raise UserError(f"{name} holds a value that cannot be read: {_one_line(str(error))}") from error
    if not isinstance(tree, dict):
        given = "is empty" if tree is None else f"holds a {type(tree).__name__}"
        raise UserError(f"{name} {given}, but {kind.name} is a mapping of settings such as {kind.line!r}")
    return tree


def flatten(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every leaf of nested mappings; an empty mapping is a leaf."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class _Loader(yaml.SafeLoader):
    """The safe loader, which moreover refuses what would make a file say something other than it seems to."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors (&) and aliases (*) are not used here; write the value out",
                                       problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value in keys[:number]:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice; keep one of the two",
                                           problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return _one_line(getattr(error, "problem", None) or getattr(error, "reason", None) or str(error))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
