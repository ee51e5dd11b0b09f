"""One trial as a process, wherever it runs, and what it has logged."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from mbrl.core.errors import UserError
from mbrl.runner.loggers import read_metrics
from mbrl.runner.rundir import RunDir

# Begins a run or goes on with it: a trial that was killed, moved or queued again is started by the same words.
_MODULE = "mbrl.cli.trial"
ADOPTED = "adopted"  # in a run's folder: another run's save, from which it is to go on
PARAMS = "params"  # in a sweep's folder: what each trial of Ray's has of its own
# Exit codes of a run that a signal has stopped after it was saved, and of a process that the signal met too early.
STOPPED = frozenset({130, 143, -2, -15})
# That of a job that SLURM has taken back: its time was over, or somebody else needed the machine.
_TAKEN = 143
_NOT_REQUEUED = "Job not requeued because"  # what submitit says then
_TAIL = 2000  # characters of it that are looked at for what went wrong


@runtime_checkable
class Job(Protocol):
    """A trial's process, wherever it runs."""

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""
        ...

    def stop(self) -> None:
        """Ask it to save and end."""
        ...


@runtime_checkable
class Launcher(Protocol):
    """Starts processes."""

    def launch(self, command: Sequence[str], log: Path) -> Job:
        """Start a command; what it says is added to a file."""
        ...


class Reading(NamedTuple):
    """The newest value of a metric."""

    steps: int
    value: float


def command(run: Path, experiment: str, words: Sequence[str]) -> list[str]:
    """Return the command of a trial."""
    return [sys.executable, "-m", _MODULE, str(run), experiment, *words]


def readings(run: Path, metric: str, after: int = -1) -> list[Reading]:
    """Return what a run has logged of a metric beyond a number of env steps, oldest first."""
    found = ((line["step"], line.get(metric)) for line in read_metrics(RunDir(run)))
    return [Reading(step, float(value)) for step, value in found if value is not None and step > after]


def trouble(log: Path) -> str:
    """Return the last line that a failed process has said."""
    if not log.is_file():
        return "it said nothing"
    lines = log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class Processes:
    """Starts trials as processes of this machine."""

    def launch(self, command: Sequence[str], log: Path) -> Job:
        """Start a command in a session of its own, so that Ctrl-C reaches it by way of the sweep alone."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return _Process(subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            ))


class _Process:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        self._process.terminate()


class Slurm:
    """Starts trials as jobs of SLURM, by submitit."""

    def __init__(self, folder: Path, options: dict, cluster: str = "slurm") -> None:
        """Ready the executor.

        Args:
            folder: of submitit's files.
            options: of its executor: `timeout_min`, `slurm_partition`, `cpus_per_task`, `gpus_per_node`, ...
            cluster: "slurm", or what else submitit knows.

        Raises:
            UserError: there is no submitit, no SLURM, or an option that the executor does not know.
        """
        try:
            import submitit
        except ImportError as error:
            raise UserError("--backend slurm needs submitit: pip install 'mbrl[slurm]'") from error
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**options)
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"SLURM cannot be used from here ({line}); run this where sbatch is, or take --backend local"
            ) from error
        self._function = submitit.helpers.CommandFunction
        errors = importlib.import_module("submitit.core.utils")
        self._refused, self._failed = errors.FailedSubmissionError, errors.FailedJobError

    def launch(self, command: Sequence[str], log: Path) -> Job:
        """Submit a command; what it says goes to the job's own log, whose end the trial's has when it is over."""
        try:
            return _SlurmJob(
                self._executor.submit(self._function(list(command), verbose=False)), log, self._failed
            )
        except self._refused as error:
            raise UserError(f"SLURM refused a job: {error}; the same command goes on with the sweep") from error


class _SlurmJob:
    def __init__(self, job: Any, log: Path, failed: type[Exception]) -> None:
        self._job, self._log, self._failed = job, log, failed

    def poll(self) -> int | None:
        job = self._job
        if not job.done():
            return None
        failed = job.exception()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        # Around the traceback there are the paths of submitit's own logs.
        told = str(failed).split("-" * 22) if failed else [""]
        self._log.write_text(told[1] if len(told) > 1 else told[0], encoding="utf-8")
        if not failed:
            return 0
        # What ended otherwise than by an error of its own was ended from outside, or it says so itself.
        return 1 if isinstance(failed, self._failed) and _NOT_REQUEUED not in str(failed) else _TAKEN

    def stop(self) -> None:
        self._job.cancel(check=False)
