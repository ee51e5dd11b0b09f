"""`mbrl report`: a run's report.html, made from its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from mbrl.cli import config as reader
from mbrl.cli import parsing


@dataclasses.dataclass(frozen=True)
class ReportArguments:
    """Make the run's report.html, and the pictures beside it, again."""

    run_dir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The run's folder."""


def run(argv: Sequence[str]) -> int:
    """Make the report and say where it is.

    Raises:
        UserError: something in the words or the run's folder is not right.
    """
    arguments = parsing.command(ReportArguments, argv, "mbrl report")
    if arguments is None:
        return 0
    from mbrl.runner.restore import load  # brings jax and physics with it, which --help does without

    write(Path(arguments.run_dir), load(arguments.run_dir, reader.load_run(arguments.run_dir)))
    return 0
