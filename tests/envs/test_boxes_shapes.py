"""Shapes beyond those of the built-in worlds: any convex polygons against each other, circles anywhere on a body."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.envs.boxes import Body, Boxes, Knobs, World, box, circle
from mbrl.envs.boxes.contacts import find
from mbrl.envs.boxes.engine import advance, at_rest
from mbrl.envs.boxes.motion import pose, turned
from mbrl.envs.boxes.render import bits
from mbrl.envs.boxes.scene import Shape, placed

SIDE = 0.5  # m, from the centre to the edges that face left and right, of every shape
HEXAGON = Shape(((0.5, -0.3), (0.5, 0.3), (0.0, 0.6), (-0.5, 0.3), (-0.5, -0.3), (0.0, -0.6)))
BODIES = {
    "hexagon": Body("hexagon", (HEXAGON,)),
    "box": Body("box", (box(SIDE, 0.4),)),
    "circle": Body("circle", (circle(SIDE),)),
    "maybe": Body("maybe", (box(SIDE, SIDE),), maybe_circle=True),
}
ROOM = (40.0, 40.0)
USUAL = Knobs(**{name: jnp.float32(name not in ("gravity", "wind")) for name in Knobs._fields})


def batch_of_one(tree):
    return jax.tree.map(lambda x: jnp.asarray(x)[..., None], tree)


def gap_between(names, disc, distance):
    """Return the smallest gap of two bodies, the second to the right of the first, and the normal's share along x."""
    env = Boxes(World(*ROOM, (16, 16), None, tuple(BODIES[name] for name in names)))
    q = batch_of_one(jnp.array([10.0, 20, 0, 10 + distance, 20, 0]))
    knobs, discs = batch_of_one(USUAL), batch_of_one(jnp.array(disc, jnp.float32))
    here = pose(env.model, q, turned(q), knobs.size)
    rows = find(env.model, ROOM, here, knobs, discs, q)[0]
    best = int(np.argmin(rows.gap[:, 0]))
    return float(rows.gap[best, 0]), float(rows.normal[best, 3, 0])


@pytest.mark.parametrize("names", [pair for pair in itertools.product(BODIES, BODIES) if pair[0] != pair[1]])
def test_the_gap_of_any_two_shapes_is_that_of_their_facing_edges(names):
    maybe = [name == "maybe" for name in names]
    for disc in {(0, 0), tuple(map(int, maybe))}:
        gap, along = gap_between(names, disc, 1.25)
        np.testing.assert_allclose(gap, 1.25 - 2 * SIDE, atol=1e-4, err_msg=f"{names} {disc}")
        np.testing.assert_allclose(along, 1, atol=1e-4)


def test_a_circle_in_a_boxs_place_has_no_corners():
    env = Boxes(World(*ROOM, (16, 16), None, (BODIES["maybe"], BODIES["circle"])))
    q = batch_of_one(jnp.array([10.0, 20, 0, 10.95, 20.95, 0]))  # the other to the right and above, at 45 degrees
    for disc, expected in ((1, 0.95 * np.sqrt(2) - 2 * SIDE), (0, 0.45 * np.sqrt(2) - SIDE)):
        knobs, discs = batch_of_one(USUAL), batch_of_one(jnp.array([disc, 0.0]))
        rows = find(env.model, ROOM, pose(env.model, q, turned(q), knobs.size), knobs, discs, q)[0]
        np.testing.assert_allclose(rows.gap.min(), expected, atol=1e-4)


def test_a_hexagon_that_hits_a_box_keeps_the_momentum():
    env = Boxes(World(*ROOM, (16, 16), None, (BODIES["hexagon"], BODIES["box"])))
    start = at_rest(env.model, jnp.array([10.0, 20, 0.3, 13, 20.1, 0.1]))
    start = start._replace(v=jnp.array([5.0, 0, 1, 0, 0, -1]))
    step, motion = jax.jit(advance(env.model, ROOM)), start
    for _ in range(15):
        motion = step(motion, jnp.zeros(0), USUAL, jnp.zeros(2))
    before, after = (np.asarray(m.v, float).reshape(2, 3)[:, :2] * env.model.mass[:, None] for m in (start, motion))
    assert motion.v[3] > 1, "they never met"
    np.testing.assert_allclose(after.sum(0), before.sum(0), atol=1e-3)


def test_a_circle_off_the_centre_is_drawn_where_it_is():
    env = Boxes(World(8.0, 8.0, (32, 32), None, (Body("pan", (box(1.0, 0.25), placed(circle(0.5), (2.0, 0.0), 0.0))),)))
    q, knobs = jnp.array([4.0, 4.0, 0.0]), USUAL
    image = np.asarray(bits(env.model, (8.0, 8.0), (32, 32))(q, knobs, jnp.zeros(1)))
    here = pose(env.model, batch_of_one(q), turned(batch_of_one(q)), batch_of_one(knobs).size)
    centre = float(here.x[0, 0] + env.model.solids[1].vertices[0, 0])
    tall = image.sum(0) > 3  # columns that only the circle fills: the box is 2 pixels high
    columns = (np.flatnonzero(tall) + 0.5) * (8 / 32)
    np.testing.assert_allclose(columns.mean(), centre, atol=8 / 32)
