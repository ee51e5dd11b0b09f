"""The run between epochs: schedule, resume, signals, faults — with a toy in the agent's place."""

import gc
import json
import os
import resource
import signal

import jax
import numpy as np
import pytest
import yaml
from toy_run import StopAt, go_on, start, toy_config, toy_evaluate, toy_program

from mbrl.core import heap
from mbrl.core.errors import UserError
from mbrl.runner import leaves
from mbrl.runner.config import CheckpointConfig, EvalConfig
from mbrl.runner.measures import evaluation_key
from mbrl.runner.reporter import Silent
from mbrl.runner.rundir import RunDir
from mbrl.runner.stop import Interrupted, RunFailedError


class CrashError(Exception):
    """The process dies: nothing is saved any more."""


def crash():
    raise CrashError


def send(signum):
    return lambda: os.kill(os.getpid(), signum)


def lines(path):
    """The metrics without the wall clock's figures."""
    parsed = [json.loads(line) for line in RunDir(path).metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in parsed]


def bits(state):
    return {name: array.tobytes() for name, array in leaves.to_host(state).arrays.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, start(path)


class Looks(Silent):
    """Notes at each epoch whether Python looks for cycles."""

    def __init__(self):
        self.seen = {}

    def metrics(self, step, *_):
        self.seen[step] = gc.isenabled()


def test_cycles_may_be_kept_until_the_learning_epoch_is_compiled(tmp_path):
    looks = Looks()
    with heap.cycles_kept():
        start(tmp_path / "run", reporter=looks)
    assert looks.seen == {8: False, 16: False} | dict.fromkeys(range(24, 65, 8), True)


def test_schedule_and_folder(whole):
    path, result = whole
    rows = lines(path)
    assert [row["step"] for row in rows] == [8, 16, 24, 32, 40, 48, 56, 64]
    assert [row["step"] for row in rows if "eval/return_mean" in row] == [16, 32, 48, 64]
    assert sorted(p.name for p in (path / "checkpoints").iterdir())[-1] == f"{64:012d}"
    assert all(row["episode/return"] is None for row in rows)
    assert result.metrics["eval/return_mean"] == rows[-1]["eval/return_mean"]
    assert result.state.step == 64
    assert list((path / "tensorboard").glob("events*"))
    config = yaml.safe_load((path / "config.yaml").read_text())
    assert config["run_dir"] == ""
    assert config["agent"] == {"name": "toy", "rate": 1e-5}


def test_evaluation_by_hand(whole):
    """The evaluation logged at step 16 is that of the state after two epochs, with that step's own key."""
    program = toy_program()
    state = program.init(jax.random.key(0))
    for _ in range(2):
        state, _ = program.epoch(state)
    returns = toy_evaluate(state.agent, evaluation_key(0, 16)).returns
    assert lines(whole[0])[1]["eval/return_mean"] == pytest.approx(float(returns.mean()), rel=1e-6)


@pytest.mark.parametrize("at", [8, 24, 32, 56])
def test_resume_after_signal_is_bit_identical(whole, tmp_path, at):
    path = tmp_path / "run"
    with pytest.raises(Interrupted) as caught:
        start(path, reporter=StopAt(at, send(signal.SIGTERM)))
    assert lines(path)[-1]["step"] == at
    assert caught.value.exit_code == 143
    assert f"mbrl train {path}" in str(caught.value)
    result = go_on(path)
    assert lines(path) == lines(whole[0])
    assert bits(result.state) == bits(whole[1].state)


@pytest.mark.parametrize("at", [32, 56])
def test_resume_after_crash_is_bit_identical(whole, tmp_path, at):
    """The lines after the last save are dropped and written anew, the same."""
    path = tmp_path / "run"
    with pytest.raises(CrashError):
        start(path, reporter=StopAt(at, crash))
    result = go_on(path)
    assert lines(path) == lines(whole[0])
    assert bits(result.state) == bits(whole[1].state)


def test_resume_passes_over_a_damaged_save(whole, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(CrashError):
        start(path, reporter=StopAt(56, crash))
    newest = path / "checkpoints" / f"{48:012d}"
    (newest / "meta.json").write_text("{}")
    go_on(path)
    assert lines(path) == lines(whole[0])
    assert (path / "checkpoints" / f"{48:012d}.damaged").is_dir()


def test_stopped_twice_in_a_row_without_an_epoch_between(whole, tmp_path):
    class AtOnce(Silent):
        def phase(self, name):
            if name == "compiling":
                send(signal.SIGINT)()

    path = tmp_path / "run"
    with pytest.raises(Interrupted) as caught:
        start(path, reporter=AtOnce())
    assert caught.value.exit_code == 130
    with pytest.raises(Interrupted):
        go_on(path, reporter=AtOnce())
    go_on(path)
    assert lines(path) == lines(whole[0])


def test_second_interrupt_leaves_at_once_and_handlers_come_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "run", reporter=StopAt(8, twice))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_more_steps_on_resume(whole, tmp_path):
    """A run of 32 steps that goes on to 64 writes what a run of 64 writes."""
    path = tmp_path / "run"
    start(path, steps=32)
    with pytest.raises(UserError, match="32 of 32 env steps; raise --steps"):
        go_on(path, steps=32)
    result = go_on(path, steps=64)
    assert lines(path) == lines(whole[0])
    assert bits(result.state) == bits(whole[1].state)
    assert yaml.safe_load((path / "config.yaml").read_text())["steps"] == 64


def test_cadence_changes_no_training_number(whole, tmp_path):
    start(tmp_path / "run", evaluation=EvalConfig(every=24, episodes=4), checkpoint=CheckpointConfig(every=8, keep=1))
    training = [[row["loss/toy"] for row in lines(path)] for path in (whole[0], tmp_path / "run")]
    assert training[0] == training[1]


@pytest.mark.parametrize(("changes", "field"), [({"seed": 1}, "seed = 0, not 1"), ({"num_envs": 4}, "num_envs = 2")])
def test_another_config_does_not_go_on(tmp_path, changes, field):
    path = tmp_path / "run"
    with pytest.raises(CrashError):
        start(path, reporter=StopAt(32, crash))
    before = RunDir(path).metrics.read_bytes()
    with pytest.raises(UserError, match=field):
        go_on(path, **changes)
    assert RunDir(path).metrics.read_bytes() == before
    assert yaml.safe_load((path / "config.yaml").read_text())["seed"] == 0


def test_faults_past_the_limit_stop_the_run(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(RunFailedError, match=r"step 40: 4 updates and 0 physics.*max_faults 3.*batch\.npz"):
        start(path, program=toy_program(faults_from=24))
    with np.load(path / "faults" / "batch.npz", allow_pickle=False) as batch:
        assert batch["timestep.observation"].shape == (5, 2, 3)
        assert batch["context"].dtype == np.float32
    assert (path / "checkpoints" / f"{40:012d}").is_dir()
    result = go_on(path, max_faults=10)  # healthy again
    assert result.state.step == 64


def test_as_many_faults_as_allowed_are_survived(tmp_path):
    assert start(tmp_path / "run", program=toy_program(faults_from=24), max_faults=10).state.step == 64


class FullDisk(Silent):
    """From one step to another the kernel refuses to let any file grow, as a full disk would."""

    def __init__(self, path, full, free):
        self.run, self.full, self.free = RunDir(path), full, free
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.notes = []

    def metrics(self, step, *_):
        if step == self.full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.run.metrics.stat().st_size + 10, self.before[1]))
        if step == self.free:
            self.end()

    def note(self, line):
        if line.startswith("warning"):
            self.notes.append(line)

    def end(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_full_disk_costs_a_save_and_not_the_run(whole, tmp_path):
    path = tmp_path / "run"
    disk = FullDisk(path, 40, 56)
    try:
        result = start(path, reporter=disk)
    finally:
        disk.end()
    assert bits(result.state) == bits(whole[1].state)
    assert lines(path) == lines(whole[0])
    # The lines of 48 and 56 and the save of 48; the save of 24 was there all along, until two newer ones were.
    assert sum("metrics.jsonl" in note for note in disk.notes) == 3
    assert all(note.endswith("training goes on and tries again") for note in disk.notes)
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == [f"{step:012d}" for step in (24, 64)]


def test_a_disk_that_stays_full_ends_the_run_with_a_sentence(tmp_path):
    path = tmp_path / "run"
    disk = FullDisk(path, 40, None)
    try:
        with pytest.raises(OSError, match=r"File too large.*metrics\.jsonl"):
            start(path, reporter=disk)
    finally:
        disk.end()
    assert [p.name for p in (path / "checkpoints").iterdir()] == [f"{24:012d}"]
    assert go_on(path).state.step == 64


def test_epoch_is_traced_once(tmp_path):
    traces = []
    start(tmp_path / "run", program=toy_program(traces=traces))
    assert len(traces) == 1


def test_initial_state_key_comes_from_the_seed(tmp_path):
    first, second = (start(tmp_path / str(seed), seed=seed, steps=8).metrics["loss/toy"] for seed in (1, 2))
    assert first != second
    assert toy_config(seed=1) != toy_config(seed=2)
