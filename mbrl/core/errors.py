"""The one exception that bad input raises, and how its sentence is made."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

# What a disk says where the name of the file is not told: full, no share of it left, broken, read-only, too large.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)

# What XLA says where an array finds no room.
_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")


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


def of_disk(error: OSError) -> str:
    """Return the sentence for a file or a disk that refused: a right that is lacking, no room; "" for all else."""
    if error.filename is None and error.errno not in _DISK:
        return ""
    return ": ".join(str(part) for part in (error.filename, error.strerror) if part)


def of_memory(error: Exception) -> str:
    """Return the sentence for memory that did not suffice, on the host or on a device of JAX; "" for all else."""
    line = (str(error).splitlines() or [""])[0]
    told = isinstance(error, MemoryError) or any(word in line for word in _MEMORY)
    return f"out of memory: {line or 'more was asked for than there is'}; take smaller numbers" if told else ""
