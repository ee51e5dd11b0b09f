"""`mbrl sweep`: many runs of one experiment, searched by a library that knows how."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mbrl.cli import parsing, tables
from mbrl.core.errors import UserError

if TYPE_CHECKING:
    from mbrl.sweeps.spec import Outcome, Sweep
    from mbrl.sweeps.trial import Launcher


@dataclasses.dataclass(frozen=True)
class SweepArguments:
    """Search an experiment's settings; stopped, the same command goes on."""

    sweep: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SWEEP")]
    """A sweep's name, see `mbrl list sweeps`, or its file."""
    backend: Literal["ray", "local", "slurm"] = "ray"
    """Who runs the trials: Ray Tune, processes of this machine, or SLURM; the latter two are searched by Optuna."""
    address: str = ""
    """Of a Ray cluster, `auto` or `host:port`; this machine if empty."""
    trials: int | None = None
    """How many, instead of the sweep's own number."""
    parallel: int | None = None
    """How many side by side, instead of the sweep's own number."""
    root: str = ""
    """Folder of the sweep; `runs/sweeps/SWEEP` if empty."""
    json: bool = False
    """Print the trials as JSON, the best first, instead of the table; the progress goes to stderr."""


def run(argv: Sequence[str]) -> int:
    """Search and return the exit code: 0 done, 1 if every trial failed, 130 or 143 if a signal came between.

    Raises:
        UserError: something in the words, the sweep or its folder is not right.
    """
    arguments = parsing.command(SweepArguments, argv, "mbrl sweep")
    if arguments is None:
        return 0
    from mbrl.cli import sweeps  # brings jax with it, which --help does without
    from mbrl.runner.files import write_atomic
    from mbrl.runner.stop import signals
    from mbrl.sweeps import folder as folders
    from mbrl.sweeps import report, study, tune

    sweep = _asked(arguments, sweeps.read(arguments.sweep))
    root = Path(arguments.root or Path("runs/sweeps", sweep.name)).absolute()
    if arguments.address and arguments.backend != "ray":
        raise UserError(f"--address is of a Ray cluster, but --backend is {arguments.backend}; leave it out")
    launcher = _launcher(arguments.backend, sweep, root)
    with folders.hold(root, sweep, arguments.backend), _Table(sweep, quiet=arguments.json) as show:
        if launcher is None:
            outcomes = tune.search(sweep, root, arguments.address, show)
            received = [signal.SIGINT] if any(one.state == "running" for one in outcomes) else []
        else:
            with signals(lambda: None) as received:
                outcomes = study.search(sweep, root, launcher, show, received)
        show(outcomes)
        write_atomic(root / "report.html", report.page(sweep, outcomes))
    best = sweeps.ranked(outcomes, sweep.mode)
    print(json.dumps([one._asdict() | {"run": str(one.run)} for one in best]) if arguments.json else _text(sweep, best))
    print(f"report: {root / 'report.html'}", file=sys.stderr if arguments.json else sys.stdout)
    if received:
        print(f"mbrl: stopped; the same command goes on with {root}", file=sys.stderr)
        return 128 + received[0]
    return int(all(one.state == "failed" for one in outcomes))


def _asked(arguments: SweepArguments, sweep: Sweep) -> Sweep:
    """Return the sweep with what the command line says."""
    for name in ("trials", "parallel"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, not {value}")
    if arguments.trials is not None and sweep.sampler == "grid":
        raise UserError(f"--trials is {arguments.trials}, but a grid has as many trials as points; leave it out")
    trials = sweep.trials if arguments.trials is None else arguments.trials
    return sweep._replace(trials=trials, parallel=arguments.parallel or sweep.parallel)


def _launcher(backend: str, sweep: Sweep, root: Path) -> Launcher | None:
    """Return what starts the trials, None where Ray does; what is not installed is refused before a folder is made."""
    from mbrl.sweeps import study, trial, tune

    if backend == "ray":
        tune.check()
        return None
    study.check(sweep)
    return trial.Processes() if backend == "local" else trial.Slurm(root / "slurm", dict(sweep.slurm))


class _Table:
    """Shows the trials in place on a terminal, and a line a change elsewhere."""

    def __init__(self, sweep: Sweep, *, quiet: bool) -> None:
        self._sweep = sweep
        self._stream = sys.stderr if quiet else sys.stdout
        self._said: dict[int, str] = {}
        self._live = None

    def __enter__(self) -> Callable[[list[Outcome]], None]:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream)
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False)
            self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _show(self, outcomes: list[Outcome]) -> None:
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(_text(self._sweep, outcomes)), refresh=True)
            return
        for one in outcomes:
            line = f"trial {one.number}: {'  '.join(_cells(self._sweep, one)[1:])}"
            if self._said.get(one.number) != line:
                print(line, file=self._stream, flush=True)
            self._said[one.number] = line


def _text(sweep: Sweep, outcomes: list[Outcome]) -> str:
    """Return the trials as a table."""
    from mbrl.sweeps.report import columns

    return "\n".join(tables.columns([columns(sweep), *(_cells(sweep, one) for one in outcomes)], {1}))


def _cells(sweep: Sweep, outcome: Outcome) -> tuple[str, ...]:
    from mbrl.sweeps.report import cells

    return cells(sweep, outcome)
