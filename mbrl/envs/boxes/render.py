"""Pictures of a world: one bit a pixel for observations, colours with smooth edges to look at."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mbrl.envs.boxes.contacts import place
from mbrl.envs.boxes.engine import batch_last
from mbrl.envs.boxes.knobs import Knobs
from mbrl.envs.boxes.model import Model
from mbrl.envs.boxes.motion import pose, rows, turned
from mbrl.envs.boxes.polygons import outline

# A pixel is set if its centre is within this share of a pixel of a body: what is a little thinner than a pixel is then
# still seen, whole.
GROWN = 0.2
_PAPER = (246, 244, 238)
_ROBOT = ((196, 74, 60), (222, 128, 84), (160, 62, 94), (232, 166, 92))
_OBJECTS = ((58, 110, 165), (74, 148, 118), (120, 94, 160))


def _distances(
    model: Model, room: tuple[float, float], pixels: tuple[int, int], q: Array, knobs: Knobs, disc: Array
) -> list[tuple[int, Float[Array, "H W B"]]]:
    """Return each solid's body and how far every pixel's centre is from it [m], negative inside.

    Beyond a polygon's corners that is the distance to the nearest of its edges' lines.
    """
    here = pose(model, q, turned(q), knobs.size)
    high, wide = pixels
    x = jnp.asarray((np.arange(wide) + 0.5) * (room[0] / wide), jnp.float32)[None, :, None]
    y = jnp.asarray((np.arange(high)[::-1] + 0.5) * (room[1] / high), jnp.float32)[:, None, None]
    found = []
    for solid in model.solids:
        angular = place([solid._replace(maybe_circle=False)], here, knobs.size, disc)
        if len(solid.vertices) > 1:
            edges = outline(angular.x, angular.y)
            offset = edges.normal_x * edges.x + edges.normal_y * edges.y
            far = -jnp.inf
            for k in range(len(solid.vertices)):
                normal_x, normal_y, beyond = (edge[:, k][None] for edge in (edges.normal_x, edges.normal_y, offset))
                side = normal_x * x + (normal_y * y - beyond)
                far = jnp.maximum(far, side)
        if len(solid.vertices) == 1 or solid.maybe_circle:
            centre_x, centre_y = (rows(at, np.array([solid.body])) for at in (here.x, here.y))
            radius = solid.radius or abs(float(solid.vertices[0, 0]))
            away = jnp.sqrt((x - centre_x[None]) ** 2 + (y - centre_y[None]) ** 2) - radius * knobs.size[None, None]
            far = jnp.where(disc[solid.body] > 0, away, far) if solid.maybe_circle else away
        found.append((solid.body, far))
    return found


def bits(model: Model, room: tuple[float, float], pixels: tuple[int, int]) -> Callable[[Array, Knobs, Array], Array]:
    """Return the function ``(q [Q], knobs, disc [N]) -> [H, W]`` that draws 1 where a body is, the ceiling on top."""
    grown = GROWN * room[1] / pixels[0]

    def draw(q: Array, knobs: Knobs, disc: Array) -> UInt8[Array, "H W B"]:
        near = [far < grown for _, far in _distances(model, room, pixels, q, knobs, disc)]
        return functools.reduce(jnp.logical_or, near).astype(jnp.uint8)

    return batch_last(draw)


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
    knobs = Knobs(*(knob[..., None] for knob in knobs))
    picture = jnp.broadcast_to(jnp.array(_PAPER, jnp.float32), (*pixels, 3))
    per_metre = pixels[0] / room[1]
    for body, far in _distances(model, room, pixels, q[:, None], knobs, disc[:, None]):
        palette, index = (_ROBOT, body) if body < model.robot else (_OBJECTS, body - model.robot)
        colour = jnp.array(palette[index % len(palette)], jnp.float32)[None, None]
        inside = far * per_metre
        cover, edge = jnp.clip(0.5 - inside, 0.0, 1.0), jnp.clip(inside + 0.5 + pixels[0] / 100, 0.0, 1.0)
        picture = picture + cover * ((1 - 0.35 * edge) * colour - picture)
    return jnp.round(picture).astype(jnp.uint8)
