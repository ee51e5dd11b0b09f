"""`--planner NAME` and its settings, for every command that can plan instead of asking the policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from mbrl.core.errors import UserError

Arguments = TypeVar("Arguments")


def fields(base: type[Arguments], argv: Sequence[str]) -> type[Arguments]:
    """Return a command's arguments' type, with the fields of the planner that is asked for.

    Args:
        base: a frozen dataclass with a property `planner` that is None.
        argv: the words.

    Raises:
        UserError: there is no such planner, or one of its fields is set and it is not named.
    """
    words = [word.partition("=") for word in argv]
    flags = [flag for flag, _, _ in words if flag.startswith("--planner")]
    if not flags:
        return base
    # The last one written counts, as of every flag.
    following = [*argv[1:], ""]
    names = [value if equals else then for (flag, equals, value), then in zip(words, following, strict=True)
             if flag in {"--planner", "--planner.name"}]
    names = [name for name in names if name]
    from mbrl.planners import PLANNERS, config_of  # brings jax, which --help does without

    if not names:
        raise UserError(f"{flags[0]} needs to know the planner: --planner and one of {', '.join(sorted(PLANNERS))}")
    config = config_of(names[-1])
    planner = ("planner", type(config), dataclasses.field(default=config))
    return dataclasses.make_dataclass(base.__name__, [planner], bases=(base,), frozen=True)
