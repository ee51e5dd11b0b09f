"""The DM-Control suite, where the extra is installed."""

import importlib.util

import jax
import numpy as np
import pytest

from mbrl.core.errors import UserError
from mbrl.core.types import LAST
from mbrl.envs import EnvConfig, make
from mbrl.envs.playground import NAMES, PlaygroundEnv
from mbrl.envs.render import make_scene

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


@installed
def test_a_task_is_seen_by_the_suites_own_camera():
    """The cart in the middle, before the sky: DM-Control's first camera is four metres away and one up."""
    env = make(EnvConfig("dmc/CartpoleBalance", pixels=32, state=False))
    assert make_scene(env).camera.mount.position.tolist() == [0, -4, 1]
    _, timestep = jax.jit(env.reset)(jax.random.key(0))
    image = np.int32(timestep.observation["image"])
    assert image.shape == (32, 32, 3)
    # Orange, where the suite's sky and floor are blue.
    orange = image[..., 0] > image[..., 2] + 20
    assert 8 < orange.sum() < 60
    assert abs(np.argwhere(orange).mean(axis=0)[1] - 15.5) < 4


@installed
@pytest.mark.parametrize("name", ["FingerTurnEasy", "FishSwim", "SwimmerSwimmer6"])
def test_all_that_a_model_shows_is_drawn(name):
    scene = make_scene(PlaygroundEnv(name))
    assert len(scene.kinds) > 5
    assert (scene.colours[:, 3] > 0).all()
