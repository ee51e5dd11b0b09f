"""The one exception that bad input raises, and how its sentence is made."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: one sentence that names the thing, what was given and what would be right.

    The command line prints the sentence and leaves with exit code 2; nothing has been written by then.
    """


def nearest(given: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the choice closest to ``given``, or ``""`` when none is close."""
    matches = difflib.get_close_matches(given, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def unknown(thing: str, given: str, choices: Iterable[str]) -> UserError:
    """Return the error for a name that is not in a registry.

    Args:
        thing: what the name stands for, e.g. ``"environment"``.
        given: the name as it was given.
        choices: the names that exist.
    """
    names = sorted(choices)
    hint = nearest(given, names)
    known = "" if hint else f"; known are {', '.join(names)}"
    return UserError(f"unknown {thing} {given!r}{hint or known}")
