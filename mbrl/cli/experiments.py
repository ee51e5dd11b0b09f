"""Finds experiments: YAML files by path or by name."""

from __future__ import annotations

import os
from pathlib import Path

from mbrl.cli.parsing import short
from mbrl.core.errors import UserError, nearest

SUFFIXES = (".yaml", ".yml")
CONFIG_NAME = "config.yaml"
SUITES, SWEEPS = "suites", "sweeps"  # folders in that of experiments which hold none, but what to run of them


def folder() -> Path:
    """Return the folder of experiments: the one here, or else the one of the checkout that `mbrl` is imported from."""
    here = Path("experiments")
    return here if here.is_dir() else Path(__file__).parents[2] / "experiments"


def names() -> dict[str, Path]:
    """Return every experiment's file under its name, `quickstart` or `brax/dreamer_hopper`."""
    root = folder()
    others = {root / SUITES, root / SWEEPS}
    files = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES and path.parent not in others)
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in files}


def find(given: str) -> Path:
    """Return the YAML file for a path, a run's folder, or an experiment's name or the last part of it.

    Raises:
        UserError: there is none, or several.
    """
    path = Path(given)
    if os.path.isdir(given):
        if (path / CONFIG_NAME).is_file():
            return path / CONFIG_NAME
        raise UserError(f"{given!r} is a folder without a {CONFIG_NAME}, so no run to go on with")
    if os.path.exists(given):
        return path
    known = names()
    wanted = given.removeprefix(f"{folder().name}/")
    for suffix in SUFFIXES:
        wanted = wanted.removesuffix(suffix)
    hits = [name for name in known if wanted in {name, name.rpartition("/")[2]}]
    if wanted == given and len(hits) == 1:
        return known[hits[0]]
    if wanted == given and len(hits) > 1:
        raise UserError(f"the experiment {given!r} may be {' or '.join(hits)}; write the one that is meant")
    pool = [*known, *(name.rpartition("/")[2] for name in known), *map(str, known.values()), *_beside(path)]
    hint = nearest(given, [str(known[hit]) for hit in hits] or pool)
    raise UserError(f"no experiment or run {short(given)}{hint or '; `mbrl list experiments` lists what there is'}")


def _beside(path: Path) -> list[str]:
    """Return the experiments and runs in the folder where ``path`` would be."""
    if not os.path.isdir(path.parent):
        return []
    return [str(other) for other in path.parent.iterdir() if other.suffix in SUFFIXES or (other / CONFIG_NAME).exists()]
