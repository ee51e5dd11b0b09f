"""How many updates are due: exactly the ratio, however long the run; and how many a run says there were."""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_learner
from toy_run import toy_config

from mbrl.replay.config import ReplayConfig
from mbrl.runner.epoch import make_program, updates_due
from mbrl.runner.reporter import summary
from mbrl.runner.seeds import run_key

REPLAY = ReplayConfig(capacity=100_000, batch_size=16, batch_length=64)
PREFILL = 8  # vector steps: 16 agent steps in two environments


def due(steps, **changes):
    config = toy_config(replay=REPLAY, **changes)
    return np.asarray(jax.jit(jax.vmap(lambda step: updates_due(config, step)))(jnp.asarray(steps, jnp.int32)))


def test_worked_by_hand():
    # 512 replayed steps per agent step are an update for each two of them: one in each vector step of two.
    assert due([0, PREFILL, PREFILL + 1, PREFILL + 5], train_ratio=512.0).tolist() == [0, 0, 1, 5]
    assert due([PREFILL + 3, PREFILL + 4], train_ratio=128.0).tolist() == [0, 1]
    assert due([PREFILL + 5119, PREFILL + 5120], train_ratio=0.1).tolist() == [0, 1]


@pytest.mark.parametrize("ratio", [33.333, 512.123, 87.36281, 1e-4])
def test_no_ratio_bursts_or_drifts(ratio):
    """Numerators and denominators that together leave int32 made tens of thousands of updates due in one step."""
    steps = np.unique(np.concatenate([np.arange(0, 10**9, 999_983), 10**6 + np.arange(50_000)]))
    asked = Fraction(ratio) * 2 / (16 * 64)
    found = due(PREFILL + steps, train_ratio=ratio)
    assert (np.diff(found) >= 0).all()
    assert np.abs(found - np.array([float(asked * int(step)) for step in steps])).max() < 3
    one_by_one = np.diff(due(PREFILL + 10**6 + np.arange(50_000), train_ratio=ratio))
    assert set(one_by_one.tolist()) <= {int(asked), int(asked) + 1}


def test_a_waiting_person_sees_updates_per_env_step():
    """Of 8 replayed steps per agent step, in batches of 4 times 4, an update comes every 2 agent or 6 env steps."""
    env = dataclasses.replace(toy_learner.CONFIG.env, action_repeat=3)
    config = dataclasses.replace(toy_learner.CONFIG, env=env)
    program = make_program(config)
    state, _ = program.prefill(program.init(run_key(config)))
    state, metrics = program.epoch(state)
    assert (int(state.updates), int(state.step)) == (8, 2 * 16 * 3)
    shown = dict(summary({name: float(value) for name, value in metrics.items()}))
    assert shown["updates/step"] == "0.167"
