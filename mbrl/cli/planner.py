"""`--planner NAME` and its settings, for every command that can plan instead of asking the policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from mbrl.cli import config, parsing
from mbrl.core.errors import UserError

Arguments = TypeVar("Arguments")


def command(base: type[Arguments], argv: Sequence[str], prog: str) -> Arguments | None:
    """Return a command's arguments as ``parsing.command`` does, with the planner that is asked for.

    What is not set of it is as the run has it: its own planner's settings, if it plans by that one, without the noise
    that explores in training.

    Args:
        base: a frozen dataclass with `run_dir`, a run's folder, and a property `planner` that is None.
        argv: the words.
        prog: the command, as a person types it.

    Raises:
        UserError: a word is wrong, there is no such planner or run, or a field is set of a planner that is not named.
    """
    name = _named(argv)
    if name is None:
        return parsing.command(base, argv, prog)
    from mbrl.planners import config_of  # brings jax, which --help does without

    found = _with(base, config_of(name))
    words = [word for word in argv if word not in parsing.HELP]
    if len(words) < len(argv) and not parsing.split(words, parsing.leaves(found))[0]:  # help on no run in particular
        return parsing.command(found, argv, prog)
    arguments: Any = parsing.command(found, words, prog)
    own = config.planner_of(config.load_run(arguments.run_dir), name)
    return parsing.command(_with(base, own), argv, prog)


def _named(argv: Sequence[str]) -> str | None:
    """Return the planner's name in the words, None where nothing is said of one."""
    words = [word.partition("=") for word in argv]
    flags = [flag for flag, _, _ in words if flag.startswith("--planner")]
    if not flags:
        return None
    # The last one written counts, as of every flag.
    following = [*argv[1:], ""]
    names = [value if equals else then for (flag, equals, value), then in zip(words, following, strict=True)
             if flag in {"--planner", "--planner.name"}]
    names = [name for name in names if name]
    if names:
        return names[-1]
    from mbrl.planners import PLANNERS  # brings jax, likewise

    raise UserError(f"{flags[0]} needs to know the planner: --planner and one of {', '.join(sorted(PLANNERS))}")


def _with(base: type[Arguments], planner: Any) -> type[Arguments]:
    """Return a command's arguments' type with the fields of a planner, which are as in ``planner`` unless set."""
    field = ("planner", type(planner), dataclasses.field(default=planner))
    return dataclasses.make_dataclass(base.__name__, [field], bases=(base,), frozen=True)
