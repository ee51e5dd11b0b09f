"""A search by Optuna, whose trials are processes here or jobs of SLURM; its journal makes it resumable."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbrl.core.errors import UserError
from mbrl.sweeps import trial as trials
from mbrl.sweeps.spec import Outcome, Params, State, Sweep, words
from mbrl.sweeps.trial import Job, Launcher, Reading

_POLL = 1.0  # seconds between two looks at the running trials
# A trial's attributes: the name of its run's folder; how often it was stopped since an evaluation; how many there were.
_FOLDER, _STOPS, _KNOWN = "folder", "stops", "known"
_MOST_STOPS = 3  # since a new evaluation: a job whose time does not suffice for one would be queued for ever


class _Running(NamedTuple):
    """A trial that runs."""

    trial: Any  # Optuna's
    job: Job
    run: Path
    log: Path


def search(
    sweep: Sweep, folder: Path, launcher: Launcher, show: Callable[[list[Outcome]], None], stopping: Sequence[int]
) -> list[Outcome]:
    """Run the sweep's trials, some side by side, and return what became of them.

    Args:
        sweep: what to search; goes on where ``folder`` holds a part of it.
        folder: of the sweep, which exists.
        launcher: starts trials.
        show: hears of all trials whenever something may have changed.
        stopping: the search saves and ends as soon as this holds anything, e.g. a signal.

    Raises:
        UserError: Optuna is not installed, or has no such search.
    """
    study = _study(sweep, folder)
    _take_up(study)
    running: list[_Running] = []
    try:
        while not stopping:
            running = _advance(sweep, study, running)
            begun = [one for one in _counted(study) if one.state.name != "WAITING"]
            for _ in range(min(sweep.parallel - len(running), sweep.trials - len(begun))):
                running.append(_begin(sweep, study, folder, launcher))
            show(outcomes(sweep, study, folder))
            if not running:
                break
            time.sleep(_POLL)
    finally:
        for one in running:
            with contextlib.suppress(Exception):  # that one cannot be stopped must not keep the others running
                one.job.stop()
        while any(one.job.poll() is None for one in running):
            time.sleep(_POLL)
    return outcomes(sweep, study, folder)


def outcomes(sweep: Sweep, study: Any, folder: Path) -> list[Outcome]:
    """Return what is known of every trial."""
    return [_outcome(sweep, one, folder / "trials") for one in _counted(study)]


def _outcome(sweep: Sweep, trial: Any, root: Path) -> Outcome:
    states: dict[str, State] = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running"}
    run = root / trial.user_attrs.get(_FOLDER, f"{trial.number:04d}")
    latest = trials.readings(run, sweep.metric)[-1:]
    score, steps = (latest[0].value, latest[0].steps) if latest else (None, 0)
    params = _asked(trial)
    state = states.get(trial.state.name, "waiting")
    return Outcome(trial.number, params, run, state, score, steps, trial.user_attrs.get("trouble", ""))


def check(sweep: Sweep) -> None:
    """Raise UserError where Optuna is not installed, or has no such search."""
    try:
        importlib.import_module("optuna")
    except ImportError as error:
        raise UserError("a sweep needs Optuna: pip install 'mbrl[sweep]'") from error
    if sweep.scheduler == "pbt":
        raise UserError("population-based training needs --backend ray; Optuna, which local and slurm use, has none")


def _study(sweep: Sweep, folder: Path) -> Any:
    """Open or begin the study in a folder."""
    check(sweep)
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {
        "tpe": optuna.samplers.TPESampler,
        "random": optuna.samplers.RandomSampler,
        # All there is was put in the queue, from which nothing is drawn.
        "grid": optuna.samplers.RandomSampler,
    }
    pruners = {
        "none": optuna.pruners.NopPruner,
        "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(sweep.grace, sweep.reduction),
    }
    journal = folder / "study.jsonl"
    _mend(journal)
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
        pruner=pruners[sweep.scheduler](),
        study_name=sweep.name,
        direction="maximize" if sweep.mode == "max" else "minimize",
        load_if_exists=True,
    )
    there = study.get_trials(deepcopy=False)
    # The journal does not keep where the draws stood: a search that goes on draws others, not the same once more.
    seed = int(np.random.SeedSequence([sweep.seed, len(there)]).generate_state(1)[0]) if there else sweep.seed
    study.sampler = samplers[sweep.sampler](seed=seed)
    if sweep.sampler == "grid":
        queued = [_asked(one) for one in there]
        for params in grid(sweep):
            if params not in queued:
                study.enqueue_trial(dict(params))
    return study


def _mend(journal: Path) -> None:
    """Cut off a line that a full disk or a kill has left unfinished: no later one could be read."""
    if journal.is_file() and not (content := journal.read_bytes()).endswith(b"\n"):
        os.truncate(journal, content.rfind(b"\n") + 1)


def _asked(trial: Any) -> Params:
    """Return what a trial tries, or will try when it is its turn."""
    return dict(trial.params or trial.system_attrs.get("fixed_params", {}))


def grid(sweep: Sweep) -> list[Params]:
    """Return every combination of the choices."""
    names = list(sweep.space)
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(sweep.space[name].values for name in names))
    ]


def _take_up(study: Any) -> None:
    """Queue anew what ran when the search was cut off, each in its own folder: its run goes on from its last save."""
    from optuna.trial import TrialState

    for cut in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        _again(study, cut)
        study.tell(cut.number, state=TrialState.FAIL)


def _again(study: Any, cut: Any, stops: int = 0, known: Sequence[Reading] = ()) -> None:
    """Queue a trial once more; the one that was cut off counts no longer.

    Args:
        study: to queue it in.
        cut: the trial.
        stops: how often it was stopped without a new evaluation.
        known: its evaluations.
    """
    attributes = {_FOLDER: cut.user_attrs[_FOLDER]} if _FOLDER in cut.user_attrs else {}
    study.enqueue_trial(_asked(cut), user_attrs=attributes | {_STOPS: stops, _KNOWN: len(known)})


def _stops(one: _Running, every: Sequence[Reading]) -> int:
    """Return how often a trial that was stopped just now was so since its last new evaluation."""
    before = one.trial.user_attrs
    return 1 + before.get(_STOPS, 0) if len(every) == before.get(_KNOWN, 0) else 1


def _counted(study: Any) -> list[Any]:
    """Return the trials without those that were cut off: another one goes on with their runs, or there was no run."""
    found = study.get_trials(deepcopy=False)
    last = {one.user_attrs.get(_FOLDER): one.number for one in found}
    waits = {one.number for one in found if one.state.name == "WAITING"}
    return [one for one in found if one.number in waits or last[one.user_attrs.get(_FOLDER)] == one.number]


def _begin(sweep: Sweep, study: Any, folder: Path, launcher: Launcher) -> _Running:
    """Ask for the next trial and start it."""
    trial = study.ask()
    params = {name: _suggest(trial, name, sweep) for name in sweep.space}
    name = trial.user_attrs.get(_FOLDER, f"{trial.number:04d}")
    trial.set_user_attr(_FOLDER, name)
    run, log = folder / "trials" / name, folder / "logs" / f"{name}.log"
    run.parent.mkdir(exist_ok=True)
    job = launcher.launch(trials.command(run, sweep.experiment, words(sweep, params)), log)
    return _Running(trial, job, run, log)


def _suggest(trial: Any, name: str, sweep: Sweep) -> Any:
    """Ask Optuna for one setting's value."""
    kind, values = sweep.space[name]
    if kind == "choice":
        return trial.suggest_categorical(name, values)
    low, high = values
    if kind == "int":
        return trial.suggest_int(name, low, high)
    return trial.suggest_float(name, low, high, log=kind == "log_uniform")


def _advance(sweep: Sweep, study: Any, running: list[_Running]) -> list[_Running]:
    """Tell Optuna what the trials have logged, end those it gives up, and return the ones that go on."""
    from optuna.trial import TrialState

    left = []
    for one in running:
        code = one.job.poll()  # before the metrics are read: what a finished process logged is all there
        known = study.get_trials(deepcopy=False)[one.trial.number].intermediate_values
        fresh = trials.readings(one.run, sweep.metric, max(known, default=-1))
        for reading in fresh:
            one.trial.report(reading.value, reading.steps)
        every = trials.readings(one.run, sweep.metric)
        if code is None and fresh and one.trial.should_prune():
            one.job.stop()
            _wait(one.job)
            study.tell(one.trial, state=TrialState.PRUNED)
        elif code is None:
            left.append(one)
        # A run that was finished before the search was cut off is refused by `mbrl train`, and is whole.
        elif every and (code == 0 or every[-1].steps >= sweep.steps):
            study.tell(one.trial, every[-1].value)
        # By somebody else, and saved: it goes on when it is its turn again, unless it comes no further for all that.
        elif code in trials.STOPPED and (stops := _stops(one, every)) <= _MOST_STOPS:
            _again(study, study.get_trials(deepcopy=False)[one.trial.number], stops, every)
            study.tell(one.trial, state=TrialState.FAIL)
        else:
            said = trials.trouble(one.log) if code else f"it logged no {sweep.metric}"
            if code in trials.STOPPED:
                said = f"stopped {_MOST_STOPS + 1} times without a new evaluation; {said}"
            one.trial.set_user_attr("trouble", f"exit code {code}: {said}")
            study.tell(one.trial, state=TrialState.FAIL)
    return left


def _wait(job: Job) -> None:
    while job.poll() is None:
        time.sleep(_POLL)
