"""The run: epochs, and between them what happens on the host — metrics, evaluation, saves, stopping.

Everything here is a function of the config and of ``TrainState``; when to evaluate and to save, and the seeds of an
evaluation, depend on the env step alone. So a run that was stopped and goes on writes the same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from mbrl.core import heap
from mbrl.core.errors import UserError
from mbrl.core.types import Metrics
from mbrl.envs import make_vector
from mbrl.evaluation.exploitation import make_gap
from mbrl.evaluation.rollout import Evaluate, make_evaluate
from mbrl.replay import memory
from mbrl.runner import devices, guest, hosts, leaves, measures, rundir, seeds, stop
from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.checks import check, check_memory, check_same, is_guest
from mbrl.runner.compiled import Compiled, compile_beside, compile_for
from mbrl.runner.config import Config, to_yaml
from mbrl.runner.epoch import Program, make_program
from mbrl.runner.files import write_atomic
from mbrl.runner.guest import GuestProgram, GuestState
from mbrl.runner.loggers import MetricsLog, Unlogged, Values
from mbrl.runner.reporter import Reporter, Silent, endure
from mbrl.runner.rundir import RunDir
from mbrl.runner.state import TrainState

# The recording in which imagined and real returns are compared: environments, and at most so many agent steps of each.
_GAP_ENVS, _GAP_STEPS = 8, 500


class Result(NamedTuple):
    """A finished run."""

    run_dir: Path
    config: Config
    program: Program | GuestProgram
    state: TrainState | GuestState
    metrics: Values  # the last line of metrics.jsonl


Epoch: TypeAlias = Callable[[TrainState], tuple[TrainState, Metrics]]


class _Machine(NamedTuple):
    """What stays the same from epoch to epoch."""

    config: Config
    folder: RunDir
    program: Program
    ahead: dict[str, Future[Compiled]]  # what of "prefill" and "epoch" is compiled before its first use
    compiled: dict[str, Compiled]  # the two, each from its first use on
    evaluate: Evaluate
    saves: Checkpoints
    log: MetricsLog | Unlogged
    reporter: Reporter
    received: list[int]  # signals
    pace: measures.Pace


def train(config: Config[Any], *, resume: str | Path | None = None, reporter: Reporter | None = None) -> Result:
    """Train the config's agent in the config's environment.

    Within ``hosts.join`` all processes call it alike and stay in step. Process 0 alone reads and writes the folder and
    evaluates, so its result alone has the evaluation; the folder is the one of a run on one host.

    Args:
        config: the experiment.
        resume: the folder of a stopped run to go on with; its config may differ in ``checks.MAY_CHANGE`` only. One of
            which nothing was saved yet begins anew. None starts a new run in ``config.run_dir``.
        reporter: hears of the progress; None is silence.

    Raises:
        UserError: something in the config or the folder is not right; nothing was written. Or a save failed.
        Interrupted: SIGINT or SIGTERM; the run is saved and can go on.
        RunFailedError: more non-finite numbers than ``config.max_faults``; state and batch are saved.
    """
    if resume is not None:
        guest.refuse_to_go_on(config)
    devices.split_cpu(config)
    program, evaluate, line = prepare(config)
    hosts.agree(0)  # what another process refuses, its own memory perhaps, is refused before there is a folder
    with _opened(config, resume) as folder, reporter or Silent() as told:
        told.note(line)
        going_on = bool(hosts.agree(hosts.first() and rundir.saved(folder)))
        if resume is not None and not going_on and hosts.first():
            told.note(f"nothing of {resume} was saved yet: it begins anew")
            write_atomic(folder.config, to_yaml(config))
        return run(program, evaluate, config, folder, told, resume=going_on)


def _opened(config: Config[Any], resume: str | Path | None) -> contextlib.AbstractContextManager[RunDir]:
    """Return the folder to hold; a process that does not write it knows its name alone."""
    if not hosts.first():
        return contextlib.nullcontext(RunDir(Path(resume or config.run_dir)))
    return rundir.create(config) if resume is None else rundir.reopen(Path(resume))


def prepare(config: Config[Any]) -> tuple[Program | GuestProgram, Evaluate, str]:
    """Return a config's program and its evaluation, and a line that says what its replay takes, or a guest's schedule.

    Raises:
        UserError: something in the config is not right.
    """
    if hosts.several():
        devices.check_hosts(config)
    if is_guest(config):
        return guest.prepare(config)
    check(config)
    program = make_program(config)
    episodes, mesh = config.evaluation.episodes, devices.mesh(config)
    evaluate = make_evaluate(program.agent, make_vector(config.env, episodes), episodes)
    evaluate = devices.evaluate_apart(mesh, seeds.evaluate_seeds(config, evaluate))
    if config.evaluation.gap:
        limit = -(-config.env.time_limit // config.env.action_repeat)
        gap = make_gap(program.agent, make_vector(config.env, _GAP_ENVS), min(limit, _GAP_STEPS) + 1)
        program = program._replace(gap=devices.evaluate_apart(mesh, seeds.evaluate_seeds(config, gap)))
    return program, evaluate, check_memory(config, template(program, config))


def run(
    program: Program | GuestProgram,
    evaluate: Evaluate,
    config: Config[Any],
    folder: RunDir,
    reporter: Reporter,
    *,
    resume: bool,
) -> Result:
    """Run a program in a folder that is held; see ``train``."""
    if isinstance(program, GuestProgram):
        return Result(folder.path, config, program, *guest.run(program, evaluate, config, folder, reporter))
    saves = Checkpoints(folder.checkpoints, config.checkpoint.keep)
    with stop.signals(lambda: reporter.phase("stopping")) as received:
        reporter.phase("compiling")
        # Learning compiles for long: that begins at once, while there is nothing yet to learn from.
        # Several processes compile in turn, so that all do the same in the same order.
        ahead = {} if resume or hosts.several() else {"epoch": compile_beside(program.epoch, template(program, config))}
        state, metric = _restored(program, config, folder, saves) if resume else _fresh(program, config)
        step = int(state.step)
        pace = measures.start_pace(step)
        with MetricsLog(folder, step if resume else None) if hosts.first() else Unlogged() as log:
            machine = _Machine(config, folder, program, ahead, {}, evaluate, saves, log, reporter, received, pace)
            state, values = _loop(machine, state, metric)
            state = state._replace(agent=program.whole(state.agent))
    return Result(folder.path, config, program, state, values)


def template(program: Program, config: Config[Any]) -> TrainState:
    """Return the state's structure, shapes and dtypes as ``jax.ShapeDtypeStruct``."""
    return jax.eval_shape(program.init, seeds.run_key(config))


def _fresh(program: Program, config: Config[Any]) -> tuple[TrainState, None]:
    """Return the first state; no evaluation has been yet."""
    return program.init(seeds.run_key(config)), None


def _restored(
    program: Program, config: Config[Any], folder: RunDir, saves: Checkpoints
) -> tuple[TrainState, float | None]:
    """Return the newest valid state and the latest evaluation's return, and note the config the run goes on with."""
    expected = template(program, config)
    if not hosts.first():
        return hosts.spread(expected, program.places, None), None
    saved = saves.find()
    check_same(saved.config, config)
    if saved.step >= config.steps:
        raise UserError(f"{folder.path} is finished: {saved.step} of {config.steps} env steps; raise --steps to go on")
    if program.places is None:
        state = saves.load(saved, expected)
    else:  # each device its own part from the first, for one might not hold all
        leaves.check(expected, saved.specs)
        found = leaves.HostTree(saves.arrays(saved), saved.specs)
        state = hosts.spread(expected, program.places, found)
    saves.set_aside_after(saved.step)
    write_atomic(folder.config, to_yaml(config))
    return state, saved.metric


def _loop(m: _Machine, state: TrainState, metric: float | None) -> tuple[TrainState, Values]:
    """Run epochs to the last step or to a signal, in whichever process, and save at the end."""
    values: Values = {}
    signum = 0
    while (step := int(state.step)) < m.config.steps and not (signum := hosts.agree((m.received or [0])[0])):
        state, values, metric = _advance(m, state, metric)
    _save(m, state, metric)
    if step < m.config.steps:
        raise stop.Interrupted(m.folder.path, step, signum)
    return state, values


def _advance(m: _Machine, state: TrainState, metric: float | None) -> tuple[TrainState, Values, float | None]:
    """Run one epoch and what is due after it."""
    config, before = m.config, int(state.step)
    prefilling = before < config.prefill_epochs * config.epoch * config.env.action_repeat
    work = "collecting" if prefilling else "learning"
    epoch = _compiled(m, "prefill" if prefilling else "epoch", state)
    m.reporter.phase(work)
    state, metrics = epoch(state)
    found = jax.device_get(metrics)
    step = int(state.step)
    if step >= config.steps or measures.due(config.evaluation.every, before, step):
        m.reporter.phase("evaluating")
        # Of one seed one device is enough to play.
        agent = m.program.whole(state.agent)
        agent = agent if config.seeds > 1 else hosts.own(agent)
        if hosts.first():
            evaluated = _evaluated(m, agent, step)
            found, metric = found | evaluated, float(np.mean(evaluated["eval/return_mean"]))
        m.reporter.phase(work)
    values: Values = seeds.summarise(found)
    values |= measures.timed(m.pace, step, config.steps, learning=work == "learning")
    endure(m.reporter, lambda: m.log.write(step, values))
    m.reporter.metrics(step, config.steps, values)
    if measures.due(config.checkpoint.every, before, step):
        endure(m.reporter, lambda: _save(m, state, metric))
    _survive(m, state, metric)
    return state, values, metric


def _compiled(m: _Machine, name: str, state: TrainState) -> Epoch:
    """Return one of the program's two epochs, compiled when it is first needed: collecting waits for nothing else."""
    if name not in m.compiled:
        m.reporter.phase("compiling")
        begun = m.ahead.get(name)
        found = compile_for(getattr(m.program, name), state) if begun is None else begun.result()
        if name == "epoch":
            heap.collect_cycles()
        heap.hand_back()  # the compiler had more than the run will need
        peak, free = memory.human(found.footprint.peak), memory.human(memory.available_bytes())
        host = f", and {memory.human(found.footprint.host)} of the host's memory" if found.footprint.host else ""
        m.reporter.note(f"compiled {name} in {found.seconds:.0f} s; it takes {peak} at once{host}; {free} are free")
        m.compiled[name] = found
    return m.compiled[name].call


def _evaluated(m: _Machine, agent: Any, step: int) -> dict[str, Any]:
    """Evaluate the policy's mode with seeds of its own; numbers, of several training seeds one each."""
    key = seeds.keys_of(m.config, lambda seed: measures.evaluation_key(seed, step))
    found = measures.scores(m.evaluate(agent, key))
    if m.program.gap is not None:
        keys = seeds.keys_of(
            m.config, lambda seed: jax.random.fold_in(measures.named_key(seed, "exploitation"), step)
        )
        found |= {"eval/exploitation_gap": jax.device_get(m.program.gap(agent, keys))}
    return found


def _save(m: _Machine, state: TrainState, metric: float | None) -> None:
    """Save the run, unless it is saved at this step already; the log is durable first, as a resume relies on it."""
    step = int(state.step)
    if hosts.agree(hosts.first() and m.saves.has(step)):
        return
    m.reporter.phase("saving")
    whole = hosts.gather(state)
    if whole is not None:
        m.log.sync()
        m.saves.save(whole, step, config=to_yaml(m.config), metric=metric)
        rundir.mark_saved(m.folder)
        heap.hand_back()  # copies of the whole state, the replay included


def _survive(m: _Machine, state: TrainState, metric: float | None) -> None:
    """Stop a run whose numbers broke down too often.

    A faulty update is skipped and a faulty physics step cut off, so the state is the last good one.

    Raises:
        RunFailedError: past ``max_faults``, after state and batch were saved.
    """
    updates, physics = (int(x.sum()) for x in jax.device_get((state.faults.updates, state.faults.physics)))
    if updates + physics <= m.config.max_faults:
        return
    _save(m, state, metric)
    culprit = f"the last batch that led to one in {_keep_batch(m, state)}" if updates else "no update was among them"
    raise stop.RunFailedError(
        f"stopped at env step {int(state.step):,}: {updates} updates and {physics} physics steps were not finite (NaN "
        f"or Inf), more than max_faults {m.config.max_faults}; the last good state is saved in "
        f"{m.folder.checkpoints}, {culprit}"
    )


def _keep_batch(m: _Machine, state: TrainState) -> Path:
    """Write the last batch that led to a skipped update; ``numpy.load`` reads it without running code."""
    path = m.folder.faults / "batch.npz"
    batch = hosts.gather(state.faults.batch)
    if batch is None:
        return path
    arrays = leaves.to_host(batch).arrays
    # NumPy's own format knows no bfloat16 (kind V).
    plain: dict[str, Any] = {name: x.astype(np.float32) if x.dtype.kind == "V" else x for name, x in arrays.items()}
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **plain)
    return path
