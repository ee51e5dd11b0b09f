"""The DM-Control suite, where the extra is installed."""

import importlib.util

import jax
import numpy as np
import pytest

from mbrl.core.errors import UserError
from mbrl.core.types import LAST
from mbrl.envs import EnvConfig, make
from mbrl.envs.playground import NAMES, PlaygroundEnv

installed = pytest.mark.skipif(importlib.util.find_spec("mujoco_playground") is None, reason="needs mbrl[playground]")


def test_a_missing_package_is_told_with_its_cure(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r'dmc/CartpoleSwingup.*pip install "mbrl\[playground\]"$'):
        make(EnvConfig("dmc/CartpoleSwingup"))


@installed
@pytest.mark.parametrize("name", NAMES)
def test_every_task_traces(name):
    env = PlaygroundEnv(name)
    state, first = jax.eval_shape(env.reset, jax.random.key(0))
    stepped, timestep = jax.eval_shape(env.step, state, jax.ShapeDtypeStruct(env.action_spec.shape, np.float32))
    assert stepped == state
    assert timestep == first


@installed
def test_a_task_runs_to_its_limit():
    env = make(EnvConfig("dmc/CartpoleSwingup", action_repeat=2, time_limit=3))
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    for _ in range(2):
        state, timestep = step(state, np.ones(1, np.float32))
    assert (timestep.step_type, timestep.discount) == (LAST, 1)
    assert step._cache_size() == 1
