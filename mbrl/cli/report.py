"""`mbrl report`: a run's report.html, made from its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mbrl.cli import compilation, parsing
from mbrl.cli import config as reader

if TYPE_CHECKING:
    from mbrl.runner.restore import Loaded
    from mbrl.runner.train import Result


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

    compilation.use_cache()
    write(load(arguments.run_dir, reader.load_run(arguments.run_dir)), arguments.run_dir)
    return 0


def write(run: Loaded | Result, run_dir: str | Path) -> None:
    """Make the report of a trained or loaded run, and show meanwhile that it is being made."""
    from mbrl.runner.live import make_reporter
    from mbrl.runner.report import make_report

    with make_reporter() as told:
        told.phase("reporting")
        page = make_report(run_dir, run.config, run.program, run.state)
    print(f"report: {page}")
