"""Films of environments and of runs, with an agent and worlds that compile in a moment."""

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_agent
from dm_env import specs
from PIL import Image
from toy_pixels import Ball, disc

import mbrl
from mbrl.cli.main import main
from mbrl.core.errors import unknown
from mbrl.core.types import Sequence, TimeStep
from mbrl.envs import ENVS, EnvConfig, make_vector
from mbrl.runner import watch
from mbrl.viz import video


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, and a world to look at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ENVS, "test/ball", Ball)
    return tmp_path


def film(path):
    """The frames of a GIF, [T, H, W, 3], and its milliseconds a picture."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        frames = []
        for t in range(image.n_frames):
            image.seek(t)
            frames.append(np.asarray(image.convert("RGB")))
        return np.stack(frames), image.info["duration"]


def bright(frames):
    """Whether there is a white ball on black in the middle of the pictures."""
    return (frames[:, 20:-20, 20:-20] > 250).all(axis=-1).any(axis=(1, 2)).all()


def test_an_environment_is_filmed_under_random_actions(here, capsys):
    assert main(["watch", "test/ball", "--size", "64", "--steps", "6", "--out", "a.gif"]) == 0
    out = capsys.readouterr().out
    assert "6 steps of test/ball under random actions" in out
    assert out.endswith("film: a.gif\n")
    frames, milliseconds = film(here / "a.gif")
    assert len(frames) == 6
    assert milliseconds == 100  # as long as a step lasts
    assert bright(frames)
    assert len({frame.tobytes() for frame in frames}) == 6
    for words in (["--seed", "1"], ["--policy", "zero"], []):
        assert main(["watch", "test/ball", "--size", "64", "--steps", "6", "--out", "b.gif", *words]) == 0
        assert ((here / "a.gif").read_bytes() == (here / "b.gif").read_bytes()) == (not words)
    assert {path.name for path in here.iterdir()} == {"a.gif", "b.gif"}


def test_without_ffmpeg_it_is_a_gif_and_says_so(here, capsys, monkeypatch):
    monkeypatch.setattr(video, "find_ffmpeg", lambda: None)
    for words, name in ((["--out", "a.mp4"], "a.gif"), ([], "test-ball.gif")):
        assert main(["watch", "test/ball", "--size", "32", "--steps", "2", *words]) == 0
        out = capsys.readouterr().out
        assert "it is a GIF, for MP4 needs an ffmpeg" in out
        assert out.endswith(f"film: {name}\n")
        assert (here / name).read_bytes().startswith(b"GIF")


def test_the_renderer_is_asked_for_environments_that_do_not_draw_themselves(here, capsys, monkeypatch):
    def make_render(env, height, width, camera=None):
        assert env.action_spec.shape == (1,)
        if camera not in {None, "top"}:
            raise unknown("camera", camera, ["top"])
        level = 130 if camera else 10
        return lambda state: jnp.full((height, width, 3), level + 10 * state.elapsed, jnp.uint8)

    monkeypatch.setattr("mbrl.runner.watch.make_render", make_render)
    for words, level in (([], 10), (["--camera", "top"], 130)):
        assert main(["watch", "probe/cue", "--size", "32", "--steps", "50", "--out", "a.gif", *words]) == 0
        frames, _ = film(here / "a.gif")
        assert len(frames) == 9  # to the episode's end
        np.testing.assert_allclose(frames[:, 20, 20, 0], level + 10 * np.arange(9), atol=4)
    capsys.readouterr()
    assert main(["watch", "probe/cue", "--size", "32", "--camera", "topp"]) == 2
    assert "did you mean 'top'?" in capsys.readouterr().err


def test_an_environment_that_shows_pictures_need_not_draw(here, capsys):
    """Its observation is the film, sign by sign."""
    assert main(["watch", "probe/sight", "--size", "32", "--out", "a.gif"]) == 0
    assert "11 steps of probe/sight" in capsys.readouterr().out
    frames, _ = film(here / "a.gif")  # where it is the same picture for two steps, a GIF has one for both
    assert 5 < len(frames) <= 11
    # Inside its border of three a black square of 26 by 26, in which two white pixels are four times as large.
    for frame in frames:
        rows, columns = np.nonzero((frame < 50).all(axis=-1))
        square = frame[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert square.shape == (26, 26, 3)
        assert (square > 200).all(axis=-1).sum() == 2 * 16


class Wide(Ball):
    """A room twice as wide as high, drawn in ones and zeros."""

    @property
    def observation_spec(self):
        return {"image": specs.BoundedArray((8, 16, 1), np.uint8, 0, 1)}

    def render(self, state, height, width):
        return disc(state.place, height, width)[..., None].astype(jnp.uint8)

    def _show(self, state):
        return {"image": self.render(state, 8, 16)}


def test_a_wide_room_is_drawn_wide_and_ones_are_white(here, monkeypatch):
    monkeypatch.setitem(ENVS, "test/wide", Wide)
    assert main(["watch", "test/wide", "--size", "48", "--steps", "3", "--out", "a.gif"]) == 0
    frames, _ = film(here / "a.gif")
    assert frames.shape[1:3] == (48 + 16, 96 + 16)
    assert bright(frames)


@pytest.fixture
def run(here):
    """A run of the toy in the ball's world."""
    settings = "env: {name: test/ball, time_limit: 12}\nsteps: 16\nevaluation: {every: 16, episodes: 2}\n"
    (here / "small.yaml").write_text(toy_agent.SETTINGS + settings)
    mbrl.train(mbrl.load_config("small.yaml", {"run_dir": "runs/a"}))
    return here / "runs/a"


def test_a_run_is_filmed_above_what_its_model_says(run, capsys):
    capsys.readouterr()
    assert main(["watch", "runs/a", "--size", "40", "--steps", "9", "--context", "3", "--out", "a.gif"]) == 0
    assert "9 steps of toy on test/ball; its imagination saw 3 of them" in capsys.readouterr().out
    frames, _ = film(Path("a.gif"))
    assert len(frames) == 9
    assert frames.shape[1] > 3 * 40
    assert main(["watch", "runs/a", "--size", "40", "--steps", "9", "--camera", "top"]) == 2
    assert "environment Ball draws itself, so it has no camera 'top'" in capsys.readouterr().err
    assert main(["watch", "runs/a", "--size", "40", "--steps", "3"]) == 0
    out = capsys.readouterr().out
    assert "not longer than the context, so nothing is imagined" in out
    kind = "mp4" if video.find_ffmpeg() else "gif"
    assert out.endswith(f"film: runs/a/videos/watch.{kind}\n")
    assert (run / f"videos/watch.{kind}").stat().st_size > 500


def test_what_the_model_says_nothing_of_is_passed_over():
    env = make_vector(EnvConfig("probe/tasks"), 1)
    state, zeros = jnp.linspace(0, 1, 4)[:, None, None], jnp.zeros((4, 1))
    seen = {"task": zeros.astype(int), "time": state}
    sequence = Sequence(TimeStep(zeros.astype(int), zeros, zeros, seen), zeros[..., None], ())
    said = {"imagination": {"time": np.asarray(state + 1)}}
    rows, unit = watch._rows(env, jax.device_get(sequence), said, 40)
    assert [row.name for row in rows] == ["truth", "imagination"]
    assert unit == " std"
    np.testing.assert_allclose(rows[1].errors, 1 / np.std(np.linspace(0, 1, 4)), rtol=1e-5)


WRONG = {
    "nothing": (["watch"], "mbrl watch needs TARGET"),
    "neither run nor environment": (["watch", "runs/none"], "'runs/none' is neither the folder of a run nor an"),
    "a misspelt environment": (["watch", "prob/cue"], "did you mean 'probe/cue'?"),
    "a misspelt Brax environment": (["watch", "brax/hoper"], "did you mean 'brax/hopper'?"),
    "a folder that is no run": (["watch", "."], "holds no config.yaml"),
    "no steps": (["watch", "test/ball", "--steps", "0"], "steps must be at least 1, not 0"),
    "no context": (["watch", "test/ball", "--context", "0"], "context must be at least 1, not 0"),
    "no size": (["watch", "test/ball", "--size", "2"], "size must be at least 16, not 2"),
    "too large": (["watch", "test/ball", "--size", "100000"], "size must be at most 4096, not 100000"),
    "too long": (["watch", "test/ball", "--steps", "1e10"], "steps must be at most 100000, not 10000000000"),
    "a wrong seed": (["watch", "test/ball", "--seed", "-1"], "seed must lie between 0 and"),
    "another kind of file": (["watch", "test/ball", "--out", "a.avi"], "must end in .gif or .mp4, which 'a.avi' does"),
    "a folder that is not there": (["watch", "test/ball", "--out", "no/a.gif"], "there is no folder 'no'"),
    "a camera that is not there": (["watch", "test/ball", "--camera", "x"], "so it has no camera 'x'"),
    "nothing to draw": (["watch", "probe/cue"], "environment Cue has no picture"),
    "a run's option": (["watch", "test/ball", "--best"], "--best is for a run"),
    "an environment's option": (["watch", ".", "--policy", "zero"], "--policy is for an environment"),
    "an unknown policy": (["watch", "test/ball", "--policy", "good"], "must be one of random, zero"),
}


@pytest.mark.parametrize(("argv", "sentence"), WRONG.values(), ids=list(WRONG))
def test_bad_input_is_one_sentence_and_leaves_nothing(argv, sentence, here, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("mbrl: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert list(here.iterdir()) == []
