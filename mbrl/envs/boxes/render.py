"""Pictures of a world: one bit a pixel for observations, colours with smooth edges to look at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mbrl.envs.boxes.contacts import place
from mbrl.envs.boxes.engine import batch_last
from mbrl.envs.boxes.knobs import Knobs
from mbrl.envs.boxes.model import Model, Solid
from mbrl.envs.boxes.motion import pose, turned

# A pixel is set if its centre is within this share of a pixel of a body: what is a little thinner than a pixel is then
# still seen, whole.
GROWN = 0.2
_PAPER = (246, 244, 238)
_ROBOT = ((196, 74, 60), (222, 128, 84), (160, 62, 94), (232, 166, 92))
_OBJECTS = ((58, 110, 165), (74, 148, 118), (120, 94, 160))


class _Drawn(NamedTuple):
    """A solid as it is drawn: where its edges' lines are, or its centre."""

    normal_x: Float[Array, "V"]
    normal_y: Float[Array, "V"]
    offset: Float[Array, "V"]  # m, of each line along its normal
    x: Float[Array, ""]  # m, a circle's centre
    y: Float[Array, ""]
    radius: Float[Array, ""]  # m, of a circle
    disc: Float[Array, ""]  # 1 where a circle stands in its place


def _drawn(model: Model) -> Callable[[Array, Knobs, Array], list[_Drawn]]:
    """Return the function ``(q [Q], knobs, disc [N]) -> solids``."""

    def find(q: Array, knobs: Knobs, disc: Array) -> list[_Drawn]:
        here = pose(model, q, turned(q), knobs.size)
        found = []
        for solid in model.solids:
            placed = place([solid._replace(maybe_circle=False)], here, knobs.size, disc)
            normal_x, normal_y = placed.normal_x[0], placed.normal_y[0]
            radius = (solid.radius or abs(float(solid.vertices[0, 0]))) * knobs.size
            offset = normal_x * placed.x[0] + normal_y * placed.y[0]
            # A circle of its own may be anywhere on its body; one in a box's place is where the box's centre was.
            body, alone = solid.body, len(solid.vertices) == 1
            x, y = (placed.x[0, 0], placed.y[0, 0]) if alone else (here.x[body], here.y[body])
            found.append(_Drawn(normal_x, normal_y, offset, x, y, radius, disc[body]))
        return found

    return batch_last(find)


def _distance(solid: Solid, at: _Drawn, x: Float[Array, "1 W"], y: Float[Array, "H 1"]) -> Float[Array, "H W"]:
    """Return how far points are from a solid [m], negative inside.

    Beyond a polygon's corners that is the distance to the nearest of its edges' lines.
    """
    far = jnp.full((y.shape[0], x.shape[1]), -jnp.inf)
    if len(solid.vertices) > 1:
        for k in range(len(solid.vertices)):
            far = jnp.maximum(far, at.normal_x[k] * x + (at.normal_y[k] * y - at.offset[k]))
        if not solid.maybe_circle:
            return far
    away = jnp.sqrt((x - at.x) ** 2 + (y - at.y) ** 2) - at.radius
    return jnp.where(at.disc > 0, away, far) if solid.maybe_circle else away


def _grid(room: tuple[float, float], pixels: tuple[int, int]) -> tuple[Float[Array, "1 W"], Float[Array, "H 1"]]:
    """Return where the centres of pixels are [m], those of the ceiling first."""
    high, wide = pixels
    x = (np.arange(wide) + 0.5) * (room[0] / wide)
    y = (np.arange(high)[::-1] + 0.5) * (room[1] / high)
    return jnp.asarray(x[None], jnp.float32), jnp.asarray(y[:, None], jnp.float32)


def bits(
    model: Model, room: tuple[float, float], pixels: tuple[int, int]
) -> Callable[[Array, Knobs, Array], UInt8[Array, "H W"]]:
    """Return the function ``(q [Q], knobs, disc [N]) -> [H, W]`` that draws 1 where a body is, the ceiling on top."""
    grown = GROWN * room[1] / pixels[0]
    find = _drawn(model)

    def draw(q: Array, knobs: Knobs, disc: Array) -> UInt8[Array, "H W"]:
        x, y = _grid(room, pixels)
        drawn = zip(model.solids, find(q, knobs, disc), strict=True)
        nearest = functools.reduce(jnp.minimum, [_distance(solid, at, x, y) for solid, at in drawn])
        return (nearest < grown).astype(jnp.uint8)

    return draw


def colours(
    model: Model, room: tuple[float, float], pixels: tuple[int, int], q: Array, knobs: Knobs, disc: Array
) -> UInt8[Array, "H W 3"]:
    """Return a picture of one world; each body has a colour, with a darker outline.

    Args:
        model: the world's numbers.
        room: its width and height [m].
        pixels: rows and columns of the picture.
        q: coordinates ``[Q]``.
        knobs: of the episode.
        disc: ``[N]``, 1 where a circle stands in a box's place.
    """
    x, y = _grid(room, pixels)
    picture = jnp.broadcast_to(jnp.array(_PAPER, jnp.float32), (*pixels, 3))
    per_metre = pixels[0] / room[1]
    for solid, at in zip(model.solids, _drawn(model)(q, knobs, disc), strict=True):
        body = solid.body
        palette, index = (_ROBOT, body) if body < model.robot else (_OBJECTS, body - model.robot)
        colour = jnp.array(palette[index % len(palette)], jnp.float32)[None, None]
        inside = _distance(solid, at, x, y)[..., None] * per_metre
        cover, edge = jnp.clip(0.5 - inside, 0.0, 1.0), jnp.clip(inside + 0.5 + pixels[0] / 100, 0.0, 1.0)
        picture = picture + cover * ((1 - 0.35 * edge) * colour - picture)
    return jnp.round(picture).astype(jnp.uint8)
