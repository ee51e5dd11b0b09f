"""The renderer: numbers by hand, what must not change a picture, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from render_scenes import drawing, model, pixels_per_unit, rest, scene, world

from mbrl.envs.render.picture import draw, to_bytes

WHITE = 'rgba="1 1 1 1"'
BALL = f'<geom type="sphere" size=".5" {WHITE}/>'


def at(place, rotations=None):
    """The world and one body at ``place``."""
    positions = jnp.stack([jnp.zeros(3), jnp.asarray(place, jnp.float32)])
    return positions, jnp.array([[1.0, 0, 0, 0]] * 2) if rotations is None else rotations


def test_a_ball_is_as_wide_as_a_pinhole_sees_it():
    """Its outline is the cone around it: tan(asin(r / d)) = 0.5 / sqrt(4² - 0.5²) on the picture's plane."""
    picture = drawing(scene(model([BALL])), 64)(*at([0, 0, 0]))[..., 0]
    radius = 0.5 / np.sqrt(4**2 - 0.5**2) * pixels_per_unit(64)
    assert radius == pytest.approx(9.733, abs=1e-3)
    # Two of the 64 rows meet at the middle; half a pixel off it a chord is shorter by 1 part in 760.
    assert picture[32].sum() == pytest.approx(2 * radius, abs=0.06)
    assert picture[:, 31].sum() == pytest.approx(2 * radius, abs=0.06)
    assert picture.sum() == pytest.approx(np.pi * radius**2, rel=0.005)


def test_the_area_of_a_disc_is_kept_wherever_it_is_in_the_pixels():
    """Anti-aliasing: within 3.5 % for discs of 1.5 to 4 pixels' radius, at any part of a pixel; 0.5 % in the mean."""
    found = scene(model([BALL]))
    rng = np.random.default_rng(0)
    radii = rng.uniform(1.5, 4.0, 64)  # pixels
    depth = 0.5 * np.sqrt(1 + (pixels_per_unit() / radii) ** 2)
    offset = rng.uniform(-0.5, 0.5, (64, 2)) / pixels_per_unit() * depth[:, None]
    places = np.concatenate([offset, 4 - depth[:, None]], axis=1)
    area = jax.jit(jax.vmap(lambda place: draw(found, *at(place), 32, 32)[..., 0].sum()))(jnp.asarray(places))
    np.testing.assert_allclose(area, np.pi * radii**2, rtol=0.035)
    assert (area / (np.pi * radii**2)).mean() == pytest.approx(1, abs=0.005)


def test_what_is_thinner_than_a_pixel_keeps_its_area():
    rod = f'<geom type="capsule" size=".02 1" euler="90 0 0" {WHITE}/>'
    found = scene(model([rod]))
    shifts = np.stack([np.linspace(0, 0.12, 9), np.zeros(9), np.zeros(9)], axis=1)
    turned = rest(model([rod]))[1]
    area = jax.vmap(lambda place: draw(found, *at(place, turned), 32, 32)[..., 0].sum())(jnp.asarray(shifts))
    scale = pixels_per_unit() / 4
    np.testing.assert_allclose(area, 0.04 * 2.04 * scale**2, rtol=0.05)


def test_a_box_and_a_cylinder_seen_face_on_have_the_areas_of_their_near_faces():
    box = drawing(scene(model([f'<geom type="box" size=".5 .4 .3" {WHITE}/>'])))
    scale = pixels_per_unit() / (4 - 0.3)
    assert box(*at([0.03, 0.01, 0]))[..., 0].sum() == pytest.approx(1.0 * 0.8 * scale**2, rel=0.02)
    can = drawing(scene(model([f'<geom type="cylinder" size=".5 .3" {WHITE}/>'])))
    assert can(*at([0.0, 0.0, 0]))[..., 0].sum() == pytest.approx(np.pi * 0.25 * scale**2, rel=0.02)
    # On its side, at right angles to the eye: a cone touches it along both sides; its ends are nearly edge on.
    lying = jnp.array([[1.0, 0, 0, 0], [np.sqrt(0.5), np.sqrt(0.5), 0, 0]])
    width = 2 * 0.5 / np.sqrt(4**2 - 0.5**2) * pixels_per_unit()
    assert can(*at([0, 0, 0], lying))[16, :, 0].sum() == pytest.approx(width, abs=0.05)


@pytest.mark.parametrize("kind", ["ellipsoid", "capsule"])
def test_an_ellipsoid_with_equal_axes_and_a_capsule_without_length_are_balls(kind):
    size = {"ellipsoid": ".5 .5 .5", "capsule": ".5 .00001"}[kind]
    geoms = BALL, f'<geom type="{kind}" size="{size}" {WHITE}/>'
    ball, other = (drawing(scene(model([geom]), flat=False))(*at([0.4, -0.2, 0.3])) for geom in geoms)
    np.testing.assert_allclose(other, ball, atol=0.03)
    assert float(jnp.abs(other - ball).mean()) < 1e-3


def test_the_near_hides_the_far_whichever_comes_first():
    red, green = ('<geom type="sphere" size=".5" rgba="1 0 0 1"/>', '<geom type="box" size=".7 .7 .2" rgba="0 1 0 1"/>')
    near, far = jnp.array([0.0, 0, 1]), jnp.array([0.0, 0, -1])
    still = jnp.array([[1.0, 0, 0, 0]] * 3)
    for geoms, (r, g) in (((red, green), (1, 2)), ((green, red), (2, 1))):
        shot = drawing(scene(model(geoms)))
        places = jnp.zeros((3, 3)).at[r].set(near).at[g].set(far)
        np.testing.assert_allclose(shot(places, still)[16, 16], [1, 0, 0], atol=1e-6)
        places = jnp.zeros((3, 3)).at[r].set(far).at[g].set(near)
        np.testing.assert_allclose(shot(places, still)[16, 16], [0, 1, 0], atol=1e-6)


def test_what_is_half_transparent_shows_what_is_behind_it():
    glass = '<geom type="sphere" size=".5" rgba="1 0 0 .25"/>'
    shot = drawing(scene(model([glass, '<geom type="sphere" size=".5" rgba="0 1 0 1"/>'])))
    places = jnp.array([[0.0, 0, 0], [0, 0, 1], [0, 0, -1]])
    np.testing.assert_allclose(shot(places, jnp.array([[1.0, 0, 0, 0]] * 3))[16, 16], [0.25, 0.75, 0], atol=1e-6)


def test_what_is_behind_the_eye_is_not_seen():
    shot = drawing(scene(model([BALL])))
    assert shot(*at([0, 0, 8])).max() == 0


KINDS = (
    f'<geom type="sphere" size=".3" pos="-.9 .5 0" {WHITE}/>',
    '<geom type="capsule" size=".15 .4" pos="0 .6 0" euler="20 70 0" rgba="1 .3 .2 1"/>',
    '<geom type="box" size=".3 .2 .25" pos=".9 .5 0" euler="30 20 10" rgba=".2 1 .3 1"/>',
    '<geom type="cylinder" size=".25 .3" pos="-.6 -.6 0" euler="40 30 0" rgba=".2 .3 1 1"/>',
    '<geom type="ellipsoid" size=".45 .15 .3" pos=".6 -.6 0" euler="10 20 50" rgba="1 1 .2 1"/>',
)


def test_moving_the_camera_and_the_world_together_changes_nothing():
    eye = '<body name="tripod" pos="0 0 4"><freejoint/><camera name="eye"/><geom size=".01" rgba="0 0 0 0"/></body>'
    mj_model = model(KINDS, cameras=eye)
    shot = drawing(scene(mj_model, flat=False)._replace(light=None, sky=np.zeros((4, 3))), 48)
    positions, rotations = rest(mj_model)
    before = shot(positions, rotations)
    turn = np.array([0.8, 0.36, -0.48, 0.0])
    matrix = _matrix(turn)
    moved = jnp.asarray(np.asarray(positions) @ matrix.T + [3.0, -2.0, 1.0], jnp.float32)
    turned = jnp.asarray([_product(turn, np.asarray(q)) for q in rotations], jnp.float32)
    assert before.std() > 0.05
    np.testing.assert_allclose(shot(moved, turned), before, atol=0.01)


def _product(left, right):
    w, v, u, s = left[0], left[1:], right[1:], right[0]
    return np.concatenate([[w * s - v @ u], w * u + s * v + np.cross(v, u)])


def _matrix(q):
    return np.stack([_product(_product(q, np.array([0, *e])), q * [1, -1, -1, -1])[1:] for e in np.eye(3)], axis=1)


def test_a_batch_is_its_pictures_one_by_one_and_a_picture_of_any_height_the_same():
    mj_model = model(KINDS)
    found = scene(mj_model, flat=False)
    positions, rotations = rest(mj_model)
    batch = positions[None] + 0.1 * jax.random.normal(jax.random.key(0), (3, *positions.shape))
    together = jax.jit(jax.vmap(lambda p: draw(found, p, rotations, 24, 24)))(batch)
    alone = drawing(found, 24)
    np.testing.assert_allclose(together, jnp.stack([alone(p, rotations) for p in batch]), atol=1e-5)
    # 23 rows cannot be cut into bands as 24 can; the same rays give the same picture.
    assert jax.eval_shape(lambda p: draw(found, p, rotations, 23, 7), positions).shape == (23, 7, 3)


def test_a_symmetric_scene_gives_a_symmetric_picture():
    floor = '<geom type="plane" size="3 3 .1" rgba=".5 .6 .7 1" material="m"/>'
    rod = '<geom type="capsule" size=".2 .6" euler="0 90 0" pos="0 0 1"/>'
    rod += '<geom type="box" size=".3 .2 .1" pos="0 1 .5"/>'
    side = '<camera name="eye" pos="0 -4 1" xyaxes="1 0 0 0 0 1"/><light pos="0 0 4" dir="0 0 -1"/>'
    mj_model = world(rod + floor + side.replace('"eye"', '"side"'), '<material name="m"/>')
    picture = drawing(scene(mj_model, "side", flat=False), 32)(*rest(mj_model))
    np.testing.assert_allclose(picture, picture[:, ::-1], atol=1e-4)
    assert picture.std() > 0.05


@pytest.mark.parametrize("flat", [True, False])
def test_pixels_move_with_a_ball_as_finite_differences_say(flat):
    """The gradient of single pixels at its edge, lit or not, and of the unlit picture's first moment."""
    found = scene(model([BALL]), flat=flat)
    weights = jnp.linspace(-1, 1, 32)[None, :, None]
    spots = jnp.array([10, 11, 20, 21])

    def look(x):
        picture = draw(found, *at(jnp.stack([x, 0.0 * x, 0.0 * x])), 32, 32)
        return jnp.append(picture[16, spots, 0], (picture * weights).mean() if flat else 0.0)

    look, slope = jax.jit(look), jax.jit(jax.jacrev(look))
    for x in (0.013, 0.05):
        step = 2e-3
        difference = (look(x + step) - look(x - step)) / (2 * step)
        found_slope = slope(x)
        assert jnp.abs(found_slope[:-1]).max() > 1
        assert flat == bool(found_slope[-1] > 0.02)
        np.testing.assert_allclose(found_slope, difference, rtol=0.03, atol=2e-3)


def test_gradients_are_finite_for_every_kind():
    mj_model = model(KINDS, light='<light pos="0 0 4" dir="0 0 -1"/><geom type="plane" size="3 3 .1" pos="0 0 -1"/>')
    found = scene(mj_model, flat=False)
    positions, rotations = rest(mj_model)
    look = lambda p: draw(found, p, rotations, 16, 16)
    sideways = jax.jit(lambda push: jax.jvp(look, (positions,), (push,))[1])
    for body in range(1, 6):
        change = sideways(jnp.zeros_like(positions).at[body, 0].set(1.0))
        assert jnp.isfinite(change).all()
        assert 0.5 < jnp.abs(change).max() < 20


def test_positions_that_are_not_finite_leave_the_background():
    floor = '<geom type="plane" size="3 3 .1" pos="0 0 -1"/><light pos="0 0 4" dir="0 0 -1" castshadow="false"/>'
    mj_model = model([BALL], light=floor)
    found = scene(mj_model, flat=False)
    shot = jax.jit(lambda p, q: to_bytes(draw(found, p, q, 24, 24)))
    nan = shot(*at([jnp.nan, 0, 0]))
    np.testing.assert_array_equal(nan, shot(*at([0, 0, 100.0])))
    np.testing.assert_array_equal(nan, shot(at([0, 0, 0])[0], jnp.full((2, 4), jnp.nan)))
    assert nan.std() > 1
    assert (nan != shot(*at([0, 0, 0]))).any()


@pytest.mark.parametrize(("half", "second"), [("4 4", True), (".6 .3", False)])
def test_a_board_begins_where_mujocos_does(half, second):
    """Which colour lies at (0.1, 0.1) on squares of one metre, as MuJoCo's own pictures have it."""
    board = (
        '<texture name="t" type="2d" builtin="checker" rgb1="1 0 0" rgb2="0 0 1" width="20" height="20"/>'
        '<material name="m" texture="t" texrepeat="1 1" texuniform="true"/>'
    )
    mj_model = world(f'<geom type="plane" size="{half} .1" material="m"/>', board)
    picture = drawing(scene(mj_model))(*rest(mj_model))
    step = round(0.1 * pixels_per_unit() / 4)
    np.testing.assert_allclose(picture[15 - step, 16 + step], [0, 0, 1] if second else [1, 0, 0], atol=1e-5)


def test_a_board_far_away_is_the_mean_of_its_colours():
    board = (
        '<texture name="t" type="2d" builtin="checker" rgb1="1 0 0" rgb2="0 0 1" width="20" height="20"/>'
        '<material name="m" texture="t" texrepeat="40 40" texuniform="true"/>'
    )
    mj_model = world('<geom type="plane" size="0 0 .1" material="m"/>', board)
    picture = drawing(scene(mj_model))(*rest(mj_model))
    np.testing.assert_allclose(picture, np.broadcast_to([0.5, 0, 0.5], picture.shape), atol=0.1)
    np.testing.assert_allclose(picture.mean(axis=(0, 1)), [0.5, 0, 0.5], atol=0.01)


def test_a_shadow_lies_below_what_casts_it():
    light = '<light directional="true" dir="0 0 -1" pos="0 0 3" diffuse="1 1 1"/>'
    mj_model = model(
        [f'<geom type="sphere" size=".3" {WHITE}/>'],
        cameras='<camera name="eye" pos="0 -4 3" xyaxes="1 0 0 0 .6 .8"/>',
        light=light + '<geom type="plane" size="3 3 .1" rgba=".5 .5 .6 1"/>',
    )
    shot = drawing(scene(mj_model, flat=False))
    aside, above = (np.asarray(shot(*at([x, 0, 1])))[..., 0] for x in (50.0, 0.0))
    darker = (aside - above) > 0.2
    rows, columns = np.nonzero(darker & (np.arange(32)[:, None] > 14))
    assert len(rows) > 4
    assert abs(columns.mean() - 15.5) < 0.6


GOLDEN = np.array([
    [0.94488, 0.952192, 0.952192, 0.94488],
    [0.8862, 0.794088, 0.686791, 0.71993],
    [0.921866, 0.713163, 0.825947, 0.930959],
    [0.94488, 0.899278, 0.916544, 0.94488],
])


def test_a_golden_picture():
    """Means of a mosaic of four by four, as first drawn and looked at."""
    mj_model = model(KINDS, light='<light pos="0 0 4" dir="0 0 -1"/>')
    picture = drawing(scene(mj_model, flat=False), 32)(*rest(mj_model))
    mosaic = picture.reshape(4, 8, 4, 8, 3).mean(axis=(1, 3, 4))
    np.testing.assert_allclose(mosaic, GOLDEN, atol=2e-3)
