"""A folder's SHA-256 manifest: what tells a whole save from a cut, flipped or half-written one."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from mbrl.runner.files import sync, write_atomic

MANIFEST = "manifest.json"


def write(folder: Path) -> None:
    """Make every file below ``folder`` durable, and list its size and digest in ``manifest.json``, last of all.

    Raises:
        OSError: the disk refused; there is no manifest, so the folder does not count.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    entries = {name: _measure(folder / name) for name in names if name != MANIFEST}
    for path in folder.rglob("*"):
        sync(path)
    write_atomic(folder / MANIFEST, json.dumps({"files": entries}, indent=1))


def problem(folder: Path, *, digests: bool = True) -> str | None:
    """Return what is wrong with ``folder``, naming the first damaged file, or None when it is whole.

    Args:
        folder: a folder that ``write`` has listed.
        digests: read every byte; otherwise compare names and sizes alone.
    """
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{MANIFEST} cannot be read"
    if not isinstance(entries, dict) or not entries:
        return f"{MANIFEST} lists no files"
    found = (_file_problem(folder, name, entry, digests) for name, entry in entries.items())
    return next((line for line in found if line is not None), None)


def _measure(path: Path) -> dict[str, Any]:
    """Return a file's size and digest."""
    with path.open("rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _file_problem(folder: Path, name: str, entry: Any, digests: bool) -> str | None:
    """Return what is wrong with one listed file, or None."""
    inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
    try:
        inside = inside and (folder / name).resolve().is_relative_to(folder.resolve())
    except (ValueError, OSError):  # no name a file could have
        inside = False
    if not inside:
        return f"{MANIFEST} names {name!r}, which lies outside the save"
    if not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
        return f"{MANIFEST} does not describe {name}"
    try:
        size = (folder / name).stat().st_size
        if size != entry["size"]:
            return f"{name} has {size} bytes instead of {entry['size']}"
        if digests and _measure(folder / name)["sha256"] != entry["sha256"]:
            return f"{name} differs from its checksum"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None
