"""A run that goes on under another config: how a population's member takes over another one's weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mbrl.core.errors import UserError
from mbrl.runner import manifest
from mbrl.runner.checkpoint import CONFIG
from mbrl.runner.config import Config, to_yaml
from mbrl.runner.files import write_atomic
from mbrl.runner.rundir import RunDir


def fork(save: Path, run: RunDir, config: Config[Any]) -> None:
    """Put another run's save in the place of a run's own; `mbrl train` then goes on from there under ``config``.

    Whatever the config changes must leave shapes as they are, else the next start is refused. Metrics stay; those
    beyond the save's step are dropped by that start.

    Args:
        save: one of the other run's ``checkpoints``; stays as it is.
        run: the run, which nobody trains now.
        config: what it goes on with.

    Raises:
        UserError: the save is damaged.
    """
    if (line := manifest.problem(save)) is not None:
        raise UserError(f"no run can go on from {save}: {line}")
    part = run.path / ".part-fork"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(save, part / save.name)
    write_atomic(part / save.name / CONFIG, to_yaml(config))
    manifest.write(part / save.name)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    write_atomic(run.config, to_yaml(config))
    part.rename(run.checkpoints)
