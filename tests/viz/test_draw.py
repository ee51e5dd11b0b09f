"""Mechanisms drawn: areas and places worked by hand, kinematics against Brax's own."""

import importlib

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mbrl.envs.brax import BraxEnv
from mbrl.viz import draw

SLIDER = """<mujoco><worldbody>{world}
  <body pos="0 0 1"><joint type="slide" axis="1 0 0"/><geom mass="1" {geom}/></body>
</worldbody></mujoco>"""


def slider(geom, world=""):
    return mujoco.MjModel.from_xml_string(SLIDER.format(geom=geom, world=world))



@pytest.mark.parametrize(
    ("geom", "square_metres"),
    [
        ('type="sphere" size="0.5"', np.pi / 4),
        ('type="capsule" size="0.2 0.4"', np.pi * 0.04 + 0.4 * 0.8),
        ('type="box" size="0.3 0.1 0.5"', 0.6),
        ('type="cylinder" size="0.2 0.4"', 0.32),
        ('type="ellipsoid" size="0.4 0.2 0.6"', np.pi * 0.24),
        ('type="capsule" size="0.2 0.4" euler="90 0 0"', np.pi * 0.04),
    ],
)
def test_geoms_cover_the_area_that_they_have_from_the_side(geom, square_metres):
    model = slider(geom)
    camera = draw.Camera(False, np.array([0.0, 1.0]), False, 120.0, 240, 240)
    frame = draw.draw(model, np.zeros((1, 1)), camera)[0]
    covered = (np.abs(frame.astype(int) - draw._SKY).sum(axis=-1) > 30).sum() / 120**2
    assert covered == pytest.approx(square_metres, rel=0.05)
    np.testing.assert_allclose(frame, frame[:, ::-1], atol=1)
    np.testing.assert_allclose(frame, frame[::-1], atol=1)


def test_edges_are_smooth_and_the_middle_has_the_colour():
    model = slider('type="sphere" size="0.5"')
    camera = draw.Camera(False, np.array([0.0, 1.0]), False, 60.0, 121, 121)
    frame = draw.draw(model, np.zeros((1, 1)), camera, (200, 40, 0))[0]
    middle = draw._vary((200, 40, 0), 1)
    np.testing.assert_allclose(frame[60, 60], middle, atol=1)
    assert len(np.unique(frame[..., 1])) > 20
    np.testing.assert_array_equal(frame[0, 0], draw._SKY)


def test_a_picture_is_where_the_mechanism_is():
    model = slider('type="sphere" size="0.1"')
    camera = draw.Camera(False, np.array([0.0, 1.0]), False, 50.0, 100, 200)
    frames = draw.draw(model, np.array([[0.0], [1.0]]), camera)
    columns = [np.flatnonzero((f != frames[0, 0, 0]).any(axis=(0, 2))).mean() for f in frames]
    np.testing.assert_allclose(columns, [99.5, 149.5], atol=0.6)


def test_what_leaves_the_picture_is_cut_off_and_what_is_not_finite_is_drawn_at_rest():
    model = slider('type="sphere" size="0.1"')
    camera = draw.Camera(False, np.array([0.0, 1.0]), False, 50.0, 100, 200)
    frames = draw.draw(model, np.array([[1e6], [np.nan], [0.0]]), camera)
    assert (frames[0] == draw._SKY).all()
    np.testing.assert_array_equal(frames[1], frames[2])


def test_the_camera_sees_all_that_moves():
    model = slider('type="capsule" size="0.2 0.4"')
    q = np.linspace(-0.2, 0.2, 5)[:, None]
    frames = draw.draw(model, q, draw.aim(model, q))
    edge = np.concatenate([frames[:, [0, -1]].reshape(-1, 3), frames[:, :, [0, -1]].reshape(-1, 3)])
    assert (edge == draw._SKY).all()
    assert (frames != draw._SKY).any(axis=-1).mean() > 0.1


def test_the_camera_goes_along_with_what_travels():
    model = slider('type="capsule" size="0.2 0.4"')
    q = np.linspace(0, 30, 4)[:, None]
    camera = draw.aim(model, q)
    frames = draw.draw(model, q, camera)
    assert camera.follow
    np.testing.assert_allclose(frames[1:], np.broadcast_to(frames[0], frames[1:].shape), atol=1)


def test_the_ground_shows_where_the_plane_is():
    model = slider('type="sphere" size="0.4"', '<geom type="plane" size="5 5 1" pos="0 0 0.5"/>')
    q = np.zeros((1, 1))
    camera = draw.aim(model, q)
    frame = draw.draw(model, q, camera)[0]
    level = camera.height / 2 - (0.5 - camera.middle[1]) * camera.scale
    assert (frame[int(level) - 3, 0] == draw._SKY).all()
    assert (frame[int(level) + 3, 2] == draw._GROUND).all()


def test_what_lies_flat_is_seen_from_above():
    arm = """<mujoco><worldbody><body><joint type="hinge" axis="0 0 1"/>
      <geom type="capsule" fromto="0 0 0 1 0 0" size="0.1"/>
      <body pos="1 0 0"><joint type="hinge" axis="0 0 1"/><geom type="capsule" fromto="0 0 0 1 0 0" size="0.1"/></body>
    </body></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(arm)
    q = np.random.default_rng(0).normal(size=(6, 2))
    assert draw.aim(model, q).above
    standing = mujoco.MjModel.from_xml_string(arm.replace("0 0 1\"/>", "0 1 0\"/>"))
    assert not draw.aim(standing, q).above


@pytest.mark.parametrize("name", ["hopper", "reacher", "ant"])
def test_geoms_are_where_braxs_kinematics_has_them(name):
    sys = BraxEnv(name).sys
    q = np.asarray(sys.init_q) + 0.3 * np.random.default_rng(0).normal(size=sys.q_size()).astype(np.float32)
    if name == "ant":
        q[3:7] /= np.linalg.norm(q[3:7])
    positions, _ = draw.place(sys.mj_model, q[None])
    math = importlib.import_module("brax.math")
    with jax.numpy_rank_promotion("allow"):
        x, _ = importlib.import_module("brax.kinematics").forward(sys, jnp.asarray(q), jnp.zeros(sys.qd_size()))
        for geom in np.flatnonzero(sys.mj_model.geom_bodyid > 0):
            link = sys.mj_model.geom_bodyid[geom] - 1
            place = x.pos[link] + math.rotate(sys.mj_model.geom_pos[geom], x.rot[link])
            np.testing.assert_allclose(positions[0, geom], place, atol=2e-5)


@pytest.mark.parametrize("inner", [np.zeros((0, 2)), np.array([[1.0, 1.0], [1.5, 0.5], [1.0, 1.0]])])
def test_the_hull_is_what_stands_out(inner):
    square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    hull = draw._hull(np.concatenate([inner, square]))
    assert {tuple(p) for p in hull} == {tuple(p) for p in square}
    area = 0.5 * np.sum(draw._cross(hull, np.roll(hull, -1, axis=0)))
    assert area == pytest.approx(4)


def test_distances_to_a_square_by_hand():
    square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    pixels = np.array([[[1.0, 1.0], [1.0, 0.5], [3.0, 1.0], [5.0, 6.0]]])
    np.testing.assert_allclose(draw._distance(pixels, square), [[-1, -0.5, 1, 5]])
