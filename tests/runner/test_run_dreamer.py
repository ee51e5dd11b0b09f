"""Dreamer itself, tiny, stopped and going on: the same numbers, bit for bit."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
from tiny_run import CONFIG
from toy_run import StopAt

from mbrl.core.types import FIRST, LAST, MID
from mbrl.envs import EnvConfig, make_vector
from mbrl.evaluation.rollout import make_evaluate
from mbrl.runner import restore, rundir
from mbrl.runner.checks import check, check_memory
from mbrl.runner.epoch import make_program
from mbrl.runner.leaves import to_host
from mbrl.runner.reporter import Silent
from mbrl.runner.stop import Interrupted
from mbrl.runner.train import run, template


class CompiledOnce:
    """A jitted function that is lowered and compiled for the first run and used by the others."""

    def __init__(self, jitted):
        self.jitted, self.compiled = jitted, []

    def lower(self, state):
        if not self.compiled:
            self.compiled.append(self.jitted.lower(state).compile())
        return self

    def compile(self, compiler_options):
        del compiler_options
        return self.compiled[0]


@pytest.fixture(scope="module")
def parts():
    program = make_program(CONFIG)
    env = make_vector(CONFIG.env, CONFIG.evaluation.episodes)
    return program._replace(epoch=CompiledOnce(program.epoch)), make_evaluate(program.agent, env, 2)


def lines(run_dir):
    parsed = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in parsed]


def test_resume_is_bit_identical(parts, tmp_path, monkeypatch):
    check(CONFIG)
    assert "256 steps" in check_memory(CONFIG, template(parts[0], CONFIG))

    def go(folder, reporter, resume):
        with folder as held:
            return run(*parts, CONFIG, held, reporter, resume=resume)

    at = lambda name: rundir.create(dataclasses.replace(CONFIG, run_dir=str(tmp_path / name)))
    whole = go(at("whole"), Silent(), False)
    terminate = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        go(at("stopped"), StopAt(48, terminate), False)
    resumed = go(rundir.reopen(tmp_path / "stopped"), Silent(), True)

    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")
    ours, theirs = to_host(resumed.state), to_host(whole.state)
    assert ours.specs == theirs.specs
    assert all(ours.arrays[name].tobytes() == theirs.arrays[name].tobytes() for name in theirs.arrays)
    assert whole.state.updates > 0

    monkeypatch.setattr(restore, "make_program", lambda _: parts[0])
    loaded = restore.load(tmp_path / "stopped", CONFIG)
    assert to_host(loaded.state).specs == theirs.specs
    assert restore.evaluate(loaded, 2, seed=1).returns.shape == (2,)


def test_training_episodes_may_be_shorter_than_those_of_evaluation():
    config = dataclasses.replace(CONFIG, env=EnvConfig("probe/action"), episode_limit=3)
    program = make_program(config)
    state = program.init(jax.random.key(0))
    kept = []
    for _ in range(2):
        state, metrics = program.prefill(state)
        kept.append(float(metrics["episode/length"]))
    assert kept == [3.0, 3.0]
    steps = state.replay.data.timestep
    assert set(np.unique(steps.step_type)) == {FIRST, MID, LAST}
    np.testing.assert_array_equal(steps.discount[np.asarray(steps.step_type) == LAST], 1.0)  # cut, not ended
    evaluate = make_evaluate(program.agent, make_vector(config.env, 2), 2)
    assert evaluate(state.agent, jax.random.key(1)).lengths.tolist() == [10, 10]
