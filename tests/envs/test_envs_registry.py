"""Names to environments, and what a wrong name says."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import Walk

from mbrl.core.errors import UserError
from mbrl.envs import ENVS, EnvConfig, HostEnv, make, make_vector, names, unwrap


def test_names_are_listed_without_importing_physics():
    code = (
        "import sys, mbrl.envs as e; n = e.names(); assert 'brax/hopper' in n and 'dmc/CartpoleSwingup' in n; "
        "assert not {'brax', 'mujoco', 'mujoco_playground', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert names() == sorted(names())
    assert "brax/swimmer" not in names()


def test_one_line_adds_an_environment_that_comes_fully_wrapped(monkeypatch):
    monkeypatch.setitem(ENVS, "mine/walk", Walk)
    env = make_vector(EnvConfig("mine/walk", action_repeat=2, time_limit=3), 2)
    assert env.num_envs == 2
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    state, timestep = step(state, jnp.full((2, 1), 0.25))
    np.testing.assert_allclose(timestep.reward, 0.5)
    state, timestep = step(state, jnp.full((2, 1), 0.25))
    np.testing.assert_allclose(timestep.reward, 0.25)
    assert timestep.last().all()
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (EnvConfig("brax/hoper"), "unknown environment 'brax/hoper'; did you mean 'brax/hopper'?"),
        (EnvConfig("brax/hopper@mjxx"), "unknown Brax backend 'mjxx'; did you mean 'mjx'?"),
        (EnvConfig("dmc/CartpoleSwingUp"), "did you mean 'dmc/CartpoleSwingup"),
        (EnvConfig("probe/queue"), "did you mean 'probe/cue'?"),
        (EnvConfig("brax/swimmer"), "'brax/swimmer' is left out because it crashes inside Brax on every backend"),
        (EnvConfig("brax/swimmer@mjx"), "'brax/swimmer' is left out because"),
        (EnvConfig("mine/walk@fast"), "environment 'mine/walk' has no variants: leave out '@fast'"),
        (EnvConfig("mine/host@fast"), "environment 'mine/host' has no variants: leave out '@fast'"),
        (EnvConfig("probe/delayed@long"), "delay of probe/delayed is 'long', but must be a whole number"),
        (EnvConfig("probe/delayed@0"), "delay of probe/delayed is 0, but must be at least 1"),
        (EnvConfig("mine/host"), "'mine/host' runs in Python"),
        (EnvConfig("probe/cue", action_repeat=0), "env.action_repeat is 0, but must be at least 1"),
        (EnvConfig("probe/cue", time_limit=-1), "env.time_limit is -1, but must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, config, sentence):
    monkeypatch.setitem(ENVS, "mine/walk", Walk)
    monkeypatch.setitem(ENVS, "mine/host", HostEnv(lambda seed: seed))
    with pytest.raises(UserError) as error:
        make(config)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_delay_stands_behind_the_at():
    env = make(EnvConfig("probe/delayed@20"))
    assert unwrap(env, env.reset(jax.random.key(0))[0])[0].length == 20


def test_a_vector_of_none_is_told():
    with pytest.raises(UserError, match="num_envs is 0"):
        make_vector(EnvConfig("probe/cue"), 0)
