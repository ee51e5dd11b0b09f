"""The runs of a suite: what is missing is run, what was stopped goes on, what is there stays as it is.

A guest's run cannot go on, so one that was stopped begins anew. What stops one run is told of it, and the rest goes on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
import yaml

from mbrl.core.errors import UserError
from mbrl.evaluation.rollout import Evaluate
from mbrl.runner import compare, machine, rundir, train, yaml_file
from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.checks import check, check_same, is_guest
from mbrl.runner.config import Config, to_yaml
from mbrl.runner.epoch import Program
from mbrl.runner.guest import GuestProgram
from mbrl.runner.loggers import read_metrics
from mbrl.runner.reporter import Reporter
from mbrl.runner.rundir import RunDir
from mbrl.runner.stop import RunFailedError
from mbrl.runner.suite import Task

State: TypeAlias = Literal["done", "failed", "open"]
# What makes a run of a config: its program, its evaluation, a line on its memory.
Prepare: TypeAlias = Callable[[Config[Any]], tuple[Program | GuestProgram, Evaluate, str]]


class Job(NamedTuple):
    """One run of a suite: an agent with a seed on a task."""

    task: Task
    agent: str
    config: Config[Any]  # with the folder where the run belongs

    @property
    def run(self) -> RunDir:
        """The run's folder."""
        return RunDir(Path(self.config.run_dir))

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.agent} on {self.task.name}, seed {self.config.seed}"


class Outcome(NamedTuple):
    """What came of a run."""

    note: str = ""  # why it is not at its end, in a sentence
    failure: str = ""  # what it failed by just now, or its config or its folder do not allow


def jobs(root: Path, configs: Iterable[tuple[Task, str, Config[Any]]], seeds: int | None) -> list[Job]:
    """Return the runs of a suite, seed after seed, so that all tasks have one before any has two.

    Args:
        root: the folder of all of them.
        configs: of each agent on each task what all seeds share.
        seeds: how many; None for as many as each task says.

    Raises:
        UserError: two of them would have one folder.
    """
    every = list(configs)
    most = seeds or max(task.seeds for task, _, _ in every)
    found = []
    for seed in range(most):
        for task, agent, config in every:
            if seed < (seeds or task.seeds):
                folder = root / _name(task.name) / _name(agent) / f"seed-{seed}"
                found.append(Job(task, agent, dataclasses.replace(config, seed=seed, run_dir=str(folder))))
    _refuse_shared(found)
    return found


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=]+", "-", text).strip("-.") or "-"


def _refuse_shared(found: Iterable[Job]) -> None:
    """Raise where two names become one folder: what the one scored would be told of the other."""
    first: dict[Path, Job] = {}
    for job in found:
        other = first.setdefault(job.run.path, job)
        if other is not job:
            raise UserError(
                f"{other.agent!r} on {other.task.name!r} and {job.agent!r} on {job.task.name!r} would both be run in "
                f"{job.run.path}; call one of them otherwise: only letters, digits, _, . and = are kept"
            )


def check_all(found: Iterable[Job]) -> None:
    """Check every run before the first one begins.

    Raises:
        UserError: numbers that do not fit each other, or a folder that holds a run of other settings.
    """
    for job in found:
        try:
            check(job.config)
        except UserError as error:
            raise UserError(f"{job.agent} on {job.task.name}: {error}") from error
        if _is_readable(job.run):
            try:
                check_same(job.run.config.read_text(encoding="utf-8"), job.config)
            except UserError as error:
                reason = str(error).partition(";")[0].replace("the checkpoint was saved", "a run")
                raise UserError(
                    f"{job.run.path} holds {reason}; the suite has changed since: give another --root, or remove it"
                ) from error


def _is_readable(run: RunDir) -> bool:
    """Whether a folder has a config that can be read; of one that cannot `perform` speaks, and of that run alone."""
    try:
        return run.config.is_file() and bool(yaml_file.read(run.config))
    except UserError:
        return False


def state_of(job: Job) -> State:
    """Return whether a run is done, has failed for good, or is open: not begun, or not at its end."""
    rows = read_metrics(job.run)
    if rows and compare.faults(rows[-1]) > job.config.max_faults:
        return "failed"
    if not rundir.saved(job.run):
        return "open"
    return "done" if Checkpoints(job.run.checkpoints).find().step >= job.config.steps else "open"


def perform(job: Job, reporter: Callable[[], Reporter], prepare: Prepare = train.prepare) -> Outcome:
    """Bring a run to its end, from wherever it stands, and return what came of it.

    Args:
        job: the run; nothing is done where it is done or has failed.
        reporter: makes what hears of the progress.
        prepare: makes the program.

    Raises:
        Interrupted: SIGINT or SIGTERM; the run is saved and can go on.
    """
    path = job.run.path
    try:
        if job.run.config.is_file():
            yaml_file.read(job.run.config)
        if state_of(job) != "open":
            return Outcome()
        program, evaluate, line = prepare(job.config)
        with rundir.take(job.config, anew=lambda: is_guest(job.config) and state_of(job) == "open") as folder:
            if state_of(job) != "open":  # another process was quicker
                return Outcome()
            machine.note(folder)
            with reporter() as told:
                told.note(f"{job.task.name}, {job.agent}, seed {job.config.seed}: {path}")
                told.note(line)
                train.run(program, evaluate, job.config, folder, told, resume=rundir.saved(folder))
    except rundir.InUseError:
        return Outcome(f"{path} is left to another process, which is at it")
    except (RunFailedError, UserError) as error:
        return _failed(job, str(error))
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        return _failed(job, (str(error).splitlines() or [type(error).__name__])[0])
    return Outcome()


def _failed(job: Job, reason: str) -> Outcome:
    return Outcome(f"{job.name} failed: {reason}", reason)


def runs_of(job: Job, outcome: Outcome) -> tuple[list[compare.Run], list[str]]:
    """Return the run as its folder has it, and what is odd about it; one that failed is there even without a folder.

    Args:
        job: the run.
        outcome: of ``perform``.
    """
    reason = outcome.failure
    try:
        begun = job.run.config.is_file()
        found, notes = compare.read(job.run, dict(yaml_file.read(job.run.config))) if begun else ([], [])
    except UserError as error:
        found, notes, reason = [], [], reason or str(error)
    if reason and not found:
        settings = dict(yaml_file.flatten(yaml.safe_load(to_yaml(job.config))))
        nothing = np.array([], np.int64), np.array([], np.float64)
        found = [compare.Run(job.run.path, job.config.seed, settings, *nothing, reached=0, short="", trouble=reason)]
    return [run if run.trouble or not reason else run._replace(trouble=reason) for run in found], notes
