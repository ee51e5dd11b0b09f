"""The report of a whole run, for environments of every kind, with an agent that knows the truth."""

import dataclasses
import json
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from dm_env import specs
from PIL import Image
from toy_pixels import SIDE, Ball, disc

from mbrl.agents.base import ActOutput, Agent, Diagnosis
from mbrl.core.types import LAST, MID, TimeStep, action_dim, as_dict, restart
from mbrl.envs import ENVS, EnvConfig, make_vector
from mbrl.runner import report as runner_report
from mbrl.runner.config import Config
from mbrl.runner.epoch import Program
from mbrl.runner.report import EPISODES, make_report
from mbrl.runner.report_frames import extent
from mbrl.runner.state import Faults, TrainState

SLIDER = """<mujoco><worldbody><body><joint type="slide" axis="1 0 0"/><geom type="sphere" size="0.3"/></body>
</worldbody></mujoco>"""


class Physics(NamedTuple):
    q: jax.Array


class State(NamedTuple):
    pipeline_state: Physics


class Slider:
    """A ball that slides as it is pushed, drawn by its joint; it falls off at 2 or after a while."""

    observation_spec = specs.Array((1,), np.float32)
    action_spec = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
    sys = SimpleNamespace(mj_model=mujoco.MjModel.from_xml_string(SLIDER))

    def reset(self, key):
        q = jax.random.uniform(key, (1,))
        return State(Physics(q)), restart(q)

    def step(self, state, action):
        q = state.pipeline_state.q + 0.1 * action
        over = q[0] > 2
        timestep = TimeStep(jnp.where(over, LAST, MID), q[0], 1.0 - over, q)
        return State(Physics(q)), timestep

    def pose(self, observation):
        return observation


class Dictionary:
    """Never ends, pays nothing, and shows an image and a constant; its action is discrete."""

    action_spec = specs.DiscreteArray(3)

    @property
    def observation_spec(self):
        return {"image": specs.Array((8, 8, 3), np.uint8), "zero": specs.Array((2,), np.float32)}

    def reset(self, key):
        del key
        return jnp.int32(0), restart(self._show(jnp.int32(0)))

    def step(self, state, action):
        state = state + 1 + action
        return state, TimeStep(jnp.int32(MID), jnp.float32(0), jnp.float32(1), self._show(state))

    def _show(self, state):
        return {"image": jnp.full((8, 8, 3), state, jnp.uint8), "zero": jnp.zeros(2)}


@dataclasses.dataclass(frozen=True)
class KnowingConfig:
    name: str = "knowing"


def knowing_agent(env):
    """Push always; say of the model what was recorded."""
    width = action_dim(env.action_spec)

    def act(state, key, carry, timestep, mode):
        del state, key, mode
        return ActOutput(jnp.ones((len(timestep.reward), width)), carry, ())

    def diagnose(state, key, sequence, context):
        del state, key, context
        timestep = sequence.timestep
        truth = {name: x.astype(jnp.float32) for name, x in as_dict(timestep.observation).items()}
        guess = jnp.full_like(timestep.reward, 7.0)
        return Diagnosis(
            truth, timestep.reward, timestep.discount, guess, guess, truth, timestep.reward, timestep.discount
        )

    nothing = lambda *_: ()
    return Agent(nothing, lambda n: jnp.zeros(n), act, nothing, diagnose, 0.9)


def report(folder, monkeypatch, env, **settings):
    """Make a report of an environment that is registered for the test alone."""
    monkeypatch.setitem(ENVS, "test/env", env)
    config = Config(agent=KnowingConfig(), env=EnvConfig(name="test/env", **settings))
    vector = make_vector(config.env, 2)
    program = Program(knowing_agent(vector), vector, None, None, None, None)
    zero = jnp.int32(0)
    state = TrainState((), None, None, jnp.int32(1234), zero, Faults(zero, zero, None), jax.random.key(0))
    path = make_report(folder, config, program, state)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def test_a_mechanism_is_drawn_and_the_numbers_are_the_runs_own(tmp_path, monkeypatch):
    rows = [
        {"step": s, "episode/return": s / 2, "eval/return_mean": None, "loss/reward": 1 / s, "run/updates_per_step": 1}
        for s in (500, 1000)
    ]
    rows[1] |= {"eval/return_mean": 3.0, "eval/return_std": 1.0}
    lines = "\n".join([*map(json.dumps, rows), '{"step": 15'])
    (tmp_path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    page = report(tmp_path, monkeypatch, Slider, time_limit=60)
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    pictures = {"learning_curve", "losses", "evaluation", "open_loop", "dream", "dream_lines", "calibration"}
    expected = {f"{name}.png" for name in pictures | {"imagined_return"}}
    assert names == expected | {"videos/dream.gif", "videos/episode.gif", "metrics.jsonl", "report.html"}
    for name in names - {"metrics.jsonl", "report.html"}:
        with Image.open(tmp_path / name) as image:
            image.load()
    assert page.count("data:image/png;base64,") == 8
    assert page.count("data:image/gif;base64,") == 2
    assert "1,234" in page
    assert f"<dd>{EPISODES} of {EPISODES}</dd>" in page  # all fell off
    assert "<dd>0 (copy: 0.2" in page or "<dd>0 (copy: 0.3" in page  # the truth is known one step ahead
    assert "knowing on test/env" in page
    assert "http" not in page


def test_images_in_a_dict_discrete_actions_and_episodes_that_never_end(tmp_path, monkeypatch):
    page = report(tmp_path, monkeypatch, Dictionary, time_limit=200)
    assert "Mean real return" in page  # 0.9 ** 200 is nothing: the end does not matter
    with Image.open(tmp_path / "videos" / "episode.gif") as film:
        assert film.n_frames > 5
        assert film.size == (160, 160)
    assert not (tmp_path / "dream_lines.png").exists()
    assert not (tmp_path / "losses.png").exists()


def test_predicted_frames_are_judged_and_bodies_found_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_report, "_LONGEST", 40)
    page = report(tmp_path, monkeypatch, Ball, time_limit=200)
    for name in ("frames_image", "positions_image", "dream"):
        with Image.open(tmp_path / f"{name}.png") as image:
            image.load()
    assert "Predicted frames: image" in page
    assert "64 windows, of which 64 last to the end." in page
    assert "<dt>bits, 50 ahead</dt><dd>0.000144 (copy: " in page  # the truth is known
    assert "<dt>zero, 1 ahead</dt><dd>0 (copy: 0)</dd>" in page  # the vector beside it is judged as ever
    assert "image, 1 ahead" not in page


def test_images_are_recorded_of_many_environments_and_large_ones_in_fewer_steps():
    large = {"image": specs.Array((64, 64, 3), np.uint8), "state": specs.Array((3,), np.float32)}
    small = {"image": specs.BoundedArray((16, 16, 1), np.uint8, 0, 1)}
    frames = 2**28 // (64 * 64 * 3 * 4)
    assert extent(large, (8, 1045), 64, 55) == (8, frames // (8 * 55) * 55) == (8, 660)
    assert extent(large, (8, 55), 64, 55) == (64, 55)
    assert extent(large, (8, 330), 64, 55) == (frames // 330, 330)
    assert extent(large, (8, 330), 8, 55) == (8, 330)
    assert extent(small, (8, 330), 64, 55) == (64, 330)
    assert extent(large["state"], (8, 1045), 64, 55) == (8, 1045)


class Aim(Ball):
    """Shows besides where the ball is to go, to the same place always."""

    @property
    def observation_spec(self):
        spec = super().observation_spec
        return spec | {"other": spec["image"]}

    def _show(self, state):
        still = disc(jnp.array([0.5, 0.5]), SIDE, SIDE)[..., None].astype(jnp.uint8)
        return super()._show(state) | {"other": still}


def test_bodies_are_looked_for_in_the_image_that_shows_them_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_report, "_LONGEST", 40)
    report(tmp_path, monkeypatch, Aim, time_limit=200)
    assert (tmp_path / "positions_image.png").exists()
    assert (tmp_path / "frames_other.png").exists()
    assert not (tmp_path / "positions_other.png").exists()


def test_episodes_too_short_to_judge_are_said_to_be(tmp_path, monkeypatch):
    page = report(tmp_path, monkeypatch, Dictionary, time_limit=4)  # a new one begins where the context ends
    assert "0 windows, of which 0 last to the end" in page
    assert "No episode went on after the 5 steps that the model sees." in page
    assert "No step of this recording was far enough from its end." in page
    assert not (tmp_path / "dream.png").exists()


@pytest.mark.parametrize("repeat", [1, 3])
def test_lengths_are_told_in_env_steps(tmp_path, monkeypatch, repeat):
    page = report(tmp_path, monkeypatch, Dictionary, time_limit=30, action_repeat=repeat)
    assert "<dd>30 env steps</dd>" in page


def test_a_report_made_again_is_the_same(tmp_path, monkeypatch):
    first = report(tmp_path, monkeypatch, Slider, time_limit=20)
    assert report(tmp_path, monkeypatch, Slider, time_limit=20) == first
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]
