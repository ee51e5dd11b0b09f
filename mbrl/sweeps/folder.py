"""A sweep's folder: what is searched stands in it, and one process writes there."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mbrl.core.errors import UserError
from mbrl.runner.files import write_atomic
from mbrl.runner.rundir import hold as hold_folder
from mbrl.sweeps.spec import Sweep

_SPEC = "sweep.json"
# What may differ when a sweep goes on.
_FREE = ("trials", "parallel", "about", "slurm", "ray")
# But of Ray's not how many: it takes its searcher up from its own state, with the numbers that stood in there.
_NUMBERS = ("trials", "parallel")


@contextlib.contextmanager
def hold(folder: Path, sweep: Sweep, backend: str) -> Iterator[None]:
    """Make the folder of a sweep, or take it up where it is one of the same sweep, and keep every other process out.

    Raises:
        UserError: another process holds it, it is a folder of something else, or of another search.
    """
    spec = folder / _SPEC
    if folder.is_file() or (folder.is_dir() and not spec.is_file() and _content(folder)):
        raise UserError(f"{folder} is in the way of the sweep, but is none: choose another --root")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    now = json.loads(json.dumps({"backend": backend} | sweep._asdict()))
    with hold_folder(folder):
        if spec.is_file():
            _check_same(spec, now)
        write_atomic(spec, json.dumps(now, indent=1))
        try:
            yield
        except UserError:
            # A search that could not begin leaves nothing that stands in the way of the next try.
            if _content(folder) == [spec.name]:
                spec.unlink()
            if made and not _content(folder):
                shutil.rmtree(folder)
            raise


def _content(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def _check_same(spec: Path, now: dict[str, Any]) -> None:
    try:
        was = json.loads(spec.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{spec} cannot be read; choose another --root") from error
    free = [key for key in _FREE if now["backend"] != "ray" or key not in _NUMBERS]
    for key in (key for key in now if key not in _FREE):
        if not isinstance(was, dict) or was.get(key) != now[key]:
            raise UserError(
                f"{spec.parent} holds a sweep with another {key}; a sweep goes on as it was begun, but for "
                f"{', '.join(free)}: choose another --root"
            )
    for key in (key for key in _FREE if key not in free):
        if was.get(key) != now[key]:
            raise UserError(
                f"{spec.parent} holds a sweep of Ray's with {key} {was.get(key)}, not {now[key]}, and Ray goes on with "
                f"the number it was begun with: take --{key} {was.get(key)}, or choose another --root"
            )
