"""Our pictures beside MuJoCo's own, where it can draw (EGL)."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from render_scenes import model

from mbrl.envs.brax import BraxEnv
from mbrl.envs.render import camera as cameras
from mbrl.envs.render.picture import draw
from mbrl.envs.render.scene import KINDS, read
from mbrl.envs.render.view import default_camera

SIZE = 128
# One of each kind, in front of a wall of sky.
TOYS = tuple(
    f'<geom type="{kind}" size="{size}" pos="{x} 0 {z}" euler="{turn}" rgba="{rgba} 1"/>'
    for kind, size, x, z, turn, rgba in (
        ("sphere", ".3", -0.9, 0.5, "0 0 0", "1 1 1"),
        ("capsule", ".15 .4", 0, 0.6, "20 70 0", "1 .3 .2"),
        ("box", ".3 .2 .25", 0.9, 0.5, "30 20 10", ".2 1 .3"),
        ("cylinder", ".25 .3", -0.6, -0.6, "40 30 0", ".2 .3 1"),
        ("ellipsoid", ".45 .15 .3", 0.6, -0.6, "10 20 50", "1 1 .2"),
    )
)
SIDE = '<camera name="track" pos="0 -4 0" xyaxes="1 0 0 0 0 1"/>'


def models():
    """Models, and their camera: its name, or where a free one stands; Brax's pendulum has none of its own."""
    pendulum = BraxEnv("inverted_pendulum", "spring").sys.mj_model
    return {
        "halfcheetah": (BraxEnv("halfcheetah", "spring").sys.mj_model, "track"),
        "ant": (BraxEnv("ant", "spring").sys.mj_model, "track"),
        "pendulum": (pendulum, {"lookat": [0, 0, 0.2], "distance": 2.0, "azimuth": 90, "elevation": 0}),
        "kinds": (model(TOYS, cameras=SIDE, light='<light pos="0 -2 4" dir="0 .4 -1"/>'), "track"),
    }


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """MuJoCo's picture and silhouette, and the model, data and scene of ours, by name."""
    folder, jobs, ours = tmp_path_factory.mktemp("mujoco"), [], {}
    rng = np.random.default_rng(1)
    for name, (mj_model, camera) in models().items():
        mujoco.mj_saveModel(mj_model, str(folder / f"{name}.mjb"))
        data = mujoco.MjData(mj_model)
        data.qpos[:] += 0.1 * rng.normal(size=mj_model.nq) * (name != "kinds")
        mujoco.mj_forward(mj_model, data)
        job = {"name": name, "model": f"{name}.mjb", "qpos": data.qpos.tolist(), "camera": camera, "size": SIZE}
        jobs.append(job)
        ours[name] = mj_model, data, camera
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("mujoco_pictures.py")
    ran = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=300)
    if ran.returncode == 77:
        pytest.skip(f"MuJoCo cannot draw here: {ran.stderr.strip().splitlines()[-1]}")
    assert ran.returncode == 0, ran.stderr
    pictures = np.load(folder / "pictures.npz")
    return {name: (pictures[name] / 255, pictures[f"{name}_shape"], *mine) for name, mine in ours.items()}


def draw_ours(mj_model, data, camera):
    """Our picture, and the coverage of all that is no plane."""
    if isinstance(camera, str):
        seen = cameras.of_model(mj_model, camera)
    else:
        seen = default_camera(mj_model, 1.0)
        eye = np.array(camera["lookat"]) - [0, camera["distance"], 0]
        level = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        seen = seen._replace(mount=seen.mount._replace(position=eye, rotation=level))
    found = read(mj_model, seen)
    plane = (found.kinds == KINDS.index("plane"))[:, None]
    white = np.where(plane, [0.0, 0, 0, 1], [1.0, 1, 1, 1])
    dark = np.zeros(3)
    shape = found._replace(
        colours=white, seconds=np.zeros_like(found.seconds), sky=np.zeros_like(found.sky), ambient=np.ones(3),
        headlight=dark, light=None,
    )
    poses = jnp.asarray(data.xpos, jnp.float32), jnp.asarray(data.xquat, jnp.float32)
    both = jax.jit(lambda p, q: (draw(found, p, q, SIZE, SIZE), draw(shape, p, q, SIZE, SIZE)[..., 0]))
    return tuple(np.asarray(one) for one in both(*poses))


@pytest.mark.parametrize(
    ("name", "difference"), [("halfcheetah", 0.06), ("ant", 0.06), ("pendulum", None), ("kinds", None)]
)
def test_what_is_seen_is_what_mujoco_shows(beside, name, difference):
    """Silhouettes overlap, and where the model has a sky the colours of the whole picture agree."""
    picture, shape, *ours = beside[name]
    drawn, cover = draw_ours(*ours)
    solid = cover > 0.5
    assert shape.sum() > 100
    overlap = (shape & solid).sum() / (shape | solid).sum()
    assert overlap > 0.94, overlap
    # Off by more than a pixel's rim there is nothing.
    inside = shape & solid
    assert np.abs(picture - drawn)[inside].mean() < 0.1
    if difference is not None:
        assert np.abs(picture - drawn).mean() < difference
