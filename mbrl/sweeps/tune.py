"""A search by Ray Tune, on this machine or on a cluster that is there."""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mbrl.core.errors import UserError
from mbrl.sweeps import trial as trials
from mbrl.sweeps.spec import Outcome, Range, State, Sweep

_STATE = "ray"  # the folder in the sweep's that holds Ray's own state
_SECONDS = 2.0  # between two looks at the trials
_KNOCK = 5.0  # seconds in which a cluster's port must answer


def search(sweep: Sweep, folder: Path, address: str, show: Callable[[list[Outcome]], None]) -> list[Outcome]:
    """Run the sweep's trials and return what became of them.

    Args:
        sweep: what to search; goes on where ``folder`` holds a part of it.
        folder: of the sweep, which exists; on a cluster all machines must see it.
        address: of a cluster, or "" for this machine.
        show: hears of all trials whenever something may have changed.

    Raises:
        UserError: Ray is not installed, no cluster answers, or this machine has too few GPUs.
    """
    check()
    import ray
    from ray import tune

    _connect(ray, sweep, address)
    try:
        with _shown(sweep, folder, show):
            results = _tuner(tune, sweep, folder).fit()
    finally:
        ray.shutdown()
    states = {}
    for result in results:
        whole = (result.metrics or {}).get("env_steps", 0) >= sweep.steps
        # Ray ends quietly when it is interrupted; only a scheduler that gives trials up has others that are not whole.
        unfinished: State = "stopped" if sweep.scheduler == "asha" else "running"
        states[(result.metrics or {}).get("trial_id")] = "failed" if result.error else "done" if whole else unfinished
    return outcomes(sweep, folder, states)


def check() -> None:
    """Raise UserError where Ray is not installed."""
    try:
        importlib.import_module("ray.tune")
    except ImportError as error:
        raise UserError("--backend ray needs Ray: pip install 'mbrl[ray]', or take --backend local") from error


def outcomes(sweep: Sweep, folder: Path, states: dict[str, State]) -> list[Outcome]:
    """Return what is known of every trial; those whose state is not given are running, or have failed to begin."""
    found = []
    # Ray numbers the trials of its own searches, whose files a population writes anew; Optuna's come in their order.
    order = lambda path: (path.stem.partition("_")[2], path.stat().st_mtime_ns)
    for number, path in enumerate(sorted((folder / trials.PARAMS).glob("*.json"), key=order)):
        run = folder / "trials" / path.stem
        latest = trials.readings(run, sweep.metric)[-1:]
        score, steps = (latest[0].value, latest[0].steps) if latest else (None, 0)
        state = states.get(path.stem, "running")
        trouble = trials.trouble(folder / "logs" / f"{path.stem}.log") if state == "failed" else ""
        params = json.loads(path.read_text(encoding="utf-8"))
        found.append(Outcome(number, params, run, state, score, steps, trouble))
    return found


def _connect(ray: Any, sweep: Sweep, address: str) -> None:
    """Start Ray here, or connect to a cluster. Its dashboard, whose job interface asks nobody's name, stays off."""
    try:
        if address:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level="error")
        else:
            cpus = sweep.parallel * int(sweep.ray["cpu"])  # as many as let that many trials run side by side
            ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start here"
        token = "if it asks for a token, set RAY_AUTH_MODE=token; " if address else ""
        raise UserError(f"{where}: {line}; {token}`--backend local` does without") from error
    there = ray.cluster_resources().get("GPU", 0)
    if not address and there < sweep.ray["gpu"]:  # Ray would wait for ever; a cluster may still grow
        ray.shutdown()
        raise UserError(
            f"ray.gpu of the sweep is {sweep.ray['gpu']:g}, but Ray finds {there:g} GPUs on this machine; take fewer, "
            "or a cluster's --address"
        )


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT, or ValueError: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()


def _tuner(tune: Any, sweep: Sweep, folder: Path) -> Any:
    """Return Ray's tuner, one that goes on where its state is there."""
    from mbrl.sweeps.ray_trial import RayTrial

    trainable = tune.with_parameters(RayTrial, sweep=sweep, folder=str(folder))
    trainable = tune.with_resources(trainable, dict(sweep.ray))
    space = {name: _domain(tune, one, sweep) for name, one in sweep.space.items()}
    if tune.Tuner.can_restore(str(folder / _STATE)):
        # A trial that goes on reports once more what the search has heard.
        warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
        return tune.Tuner.restore(str(folder / _STATE), trainable, resume_unfinished=True, param_space=space)
    config = tune.TuneConfig(
        metric="score",
        mode=sweep.mode,
        num_samples=1 if sweep.sampler == "grid" else sweep.trials,
        search_alg=_searcher(sweep),
        scheduler=_scheduler(sweep, space),
    )
    run = tune.RunConfig(name=_STATE, storage_path=str(folder), verbose=0)
    return tune.Tuner(trainable, param_space=space, tune_config=config, run_config=run)


def _domain(tune: Any, one: Range, sweep: Sweep) -> Any:
    """Return a range as Ray has it; its whole numbers end before the highest."""
    if one.kind == "choice":
        return (tune.grid_search if sweep.sampler == "grid" else tune.choice)(list(one.values))
    low, high = one.values
    if one.kind == "int":
        return tune.randint(low, high + 1)
    return (tune.loguniform if one.kind == "log_uniform" else tune.uniform)(low, high)


def _searcher(sweep: Sweep) -> Any:
    """Return Optuna's search, or random draws, on which populations and grids build."""
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.basic_variant import BasicVariantGenerator

    if sweep.sampler != "tpe" or sweep.scheduler == "pbt":
        return BasicVariantGenerator(max_concurrent=sweep.parallel, random_state=sweep.seed)
    from ray.tune.search.optuna import OptunaSearch

    return ConcurrencyLimiter(OptunaSearch(seed=sweep.seed), max_concurrent=sweep.parallel)


def _scheduler(sweep: Sweep, space: dict[str, Any]) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining

    if sweep.scheduler == "asha":
        return ASHAScheduler(
            time_attr="env_steps", max_t=sweep.steps, grace_period=sweep.grace, reduction_factor=sweep.reduction
        )
    if sweep.scheduler == "pbt":
        # Of a list a neighbour is taken; a number is multiplied, and held within its range.
        mutations = {
            name: list(one.values) if one.kind == "choice" else space[name] for name, one in sweep.space.items()
        }
        return PopulationBasedTraining(
            time_attr="env_steps", perturbation_interval=sweep.grace, hyperparam_mutations=mutations,
            custom_explore_fn=partial(within, sweep.space),
        )
    return FIFOScheduler()


def within(space: Mapping[str, Range], params: dict[str, Any]) -> dict[str, Any]:
    """Return a mutated member's settings, held within their ranges."""
    held = dict(params)
    for name, one in space.items():
        if one.kind != "choice":
            low, high = one.values
            value = min(max(held[name], low), high)
            held[name] = round(value) if one.kind == "int" else value
    return held


@contextlib.contextmanager
def _shown(sweep: Sweep, folder: Path, show: Callable[[list[Outcome]], None]) -> Iterator[None]:
    """Look at the trials now and then, while Ray is at work."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_SECONDS):
            show(outcomes(sweep, folder, {}))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
