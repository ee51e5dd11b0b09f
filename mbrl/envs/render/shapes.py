"""Rays against round shapes, in closed form: how much of a pixel a shape covers, how far it is and where it faces.

Everything is in the camera's frame: the eye at the origin, x right, y up, z ahead, and rays ``d = (x, y, 1)``, so that
a distance along a ray is a depth. A shape covers of a pixel what the interval between its outline's two sides cuts
out of the pixel's width: exact for an edge along the pixel grid, within a few per cent for others, and true to the
area of what is thinner than a pixel. It is continuous in all positions, and so has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Map: TypeAlias = Float[Array, "H W"]
Point: TypeAlias = Float[Array, "3"]
Part: TypeAlias = Float[Array, "..."]  # a map, or one number for all pixels
Vector: TypeAlias = tuple[Part, Part, Part]
Rotation: TypeAlias = Float[Array, "3 3"]

_TINY = 1e-12
_NEAR = 1e-3  # what is closer to the eye is not drawn


class Rays(NamedTuple):
    """One ray through the middle of each pixel."""

    x: Map
    y: Map
    square: Map  # x² + y² + 1
    blur: Map  # the side of a pixel at depth 1, across the ray

    @classmethod
    def grid(cls, height: int, width: int, fovy: float) -> Rays:
        """Return the rays of a pinhole camera whose picture spans ``fovy`` degrees from bottom to top, in NumPy."""
        pixel = pixel_side(height, fovy)
        x = (np.arange(width) + 0.5 - width / 2) * pixel
        y = (height / 2 - np.arange(height) - 0.5) * pixel
        x, y = np.meshgrid(x, y)
        square = x**2 + y**2 + 1
        # A step of one pixel moves the ray by its side at right angles to the radius, by less along it.
        return cls._make(np.float32(one) for one in (x, y, square, pixel * square**-0.25))

    def dot(self, vector: Point) -> Map:
        """Return ``d · vector``."""
        return self.x * vector[0] + self.y * vector[1] + vector[2]

    def beyond(self, point: Vector, depth: Map) -> Vector:
        """Return ``depth d - point``."""
        return depth * self.x - point[0], depth * self.y - point[1], depth - point[2]


class Hit(NamedTuple):
    """What a shape does to a picture."""

    cover: Map  # the share of the pixel that it covers, in [0, 1]
    depth: Map  # where its surface is
    normal: Vector  # a unit vector out of it; at the very edge it may be longer


Shape: TypeAlias = Callable[[Rays, Point, Rotation, Point], Hit]


def pixel_side(height: int, fovy: float) -> float:
    """Return the side of a pixel at depth 1."""
    return float(2 * np.tan(np.radians(fovy) / 2) / height)


def sphere(rays: Rays, centre: Point, axes: Rotation, size: Point) -> Hit:
    """A ball of radius ``size[0]`` around ``centre``.

    A disc of radius R whose edge is a ramp one pixel wide, from R - 1/2 to R + 1/2, has 1/12 pixel more than its area;
    so the ramp is put 1/(24 R) further in.
    """
    del axes
    radius, middle = size[0], _split(centre)
    passing = rays.dot(centre) / rays.square
    q = rays.beyond(middle, passing)
    apart = _dot(q, q)
    depth = passing - root((radius**2 - apart) / rays.square)
    inset = jnp.minimum((passing * rays.blur) ** 2 / (24 * radius), 0.1 * radius)
    return _ball(rays, middle, radius, depth, interval(root(apart), radius - inset, passing * rays.blur))


def capsule(rays: Rays, centre: Point, axes: Rotation, size: Point) -> Hit:
    """All within ``size[0]`` of a segment of half length ``size[1]`` along the third of the ``axes``' columns.

    Its outline is where the ray is ``size[0]`` apart from the segment. Its surface is that of the ball around where
    the ray enters the endless cylinder, seen along the axis, or around an end of the segment. How far the ray is from
    a point on the axis grows with the square of that point's way from where they are nearest.
    """
    radius, half, axis = size[0], size[1], axes[:, 2]
    ahead, along, offset = rays.dot(centre), rays.dot(axis), centre @ axis
    sine = jnp.maximum(rays.square - along**2, 1e-6)
    inverse, grows = 1 / sine, sine / rays.square
    nearest = (along * ahead - rays.square * offset) * inverse
    apart = rays.dot(jnp.cross(centre, axis)) ** 2 * inverse
    outline = apart + (jnp.clip(nearest, -half, half) - nearest) ** 2 * grows
    entry = jnp.clip(nearest - along * root((radius**2 - apart) * inverse), -half, half)
    inside = radius**2 - apart - (entry - nearest) ** 2 * grows
    depth = (ahead + entry * along) / rays.square - root(inside / rays.square)
    middle = centre[0] + entry * axis[0], centre[1] + entry * axis[1], centre[2] + entry * axis[2]
    return _ball(rays, middle, radius, depth, interval(root(outline), radius, depth * rays.blur))


def ellipsoid(rays: Rays, centre: Point, axes: Rotation, size: Point) -> Hit:
    """An ellipsoid with half axes ``size``: a ball where space is stretched by them.

    How far a ray is from its outline is known in stretched space; the gradient across the picture turns it into
    pixels.
    """
    stretch = axes.T / size[:, None]
    middle = stretch @ centre
    columns = [_split(stretch[:, i]) for i in range(3)]
    x, y, z = (columns[0][i] * rays.x + columns[1][i] * rays.y + columns[2][i] for i in range(3))
    ray = x, y, z
    square = _dot(ray, ray)
    depth = _dot(ray, _split(middle)) / square
    q = depth * x - middle[0], depth * y - middle[1], depth * z - middle[2]
    apart = root(_dot(q, q))
    slope = root(_dot(q, columns[0]) ** 2 + _dot(q, columns[1]) ** 2) * depth / apart
    cover = interval(apart, 1.0, slope * rays.blur)
    back = root((1 - apart**2) / square)
    q = q[0] - back * x, q[1] - back * y, q[2] - back * z
    return _seen(cover, depth - back, _unit((_dot(q, columns[0]), _dot(q, columns[1]), _dot(q, columns[2]))))


def cylinder(rays: Rays, centre: Point, axes: Rotation, size: Point) -> Hit:
    """All within ``size[0]`` of a line and ``size[1]`` of ``centre`` along it: the third of the ``axes``' columns.

    What is seen of it are its side and the one end that faces the eye; they share no pixel's area, so their
    coverages add up.
    """
    radius, half, axis = size[0], size[1], axes[:, 2]
    ahead, along, offset = rays.dot(centre), rays.dot(axis), centre @ axis
    sine = jnp.maximum(rays.square - along**2, 1e-6)
    nearest = (along * ahead - rays.square * offset) / sine
    apart = jnp.abs(rays.dot(jnp.cross(centre, axis))) / jnp.sqrt(sine)
    depth = (ahead + nearest * along) / rays.square - root((radius**2 - apart**2) / sine)
    place = depth * along - offset
    x, y, z = rays.beyond(_split(centre), depth)
    normal = _unit((x - place * axis[0], y - place * axis[1], z - place * axis[2]))
    steep = along / jnp.minimum(_dot(normal, (rays.x, rays.y, jnp.ones_like(x))), -0.05)
    slope = root((axis[0] - steep * normal[0]) ** 2 + (axis[1] - steep * normal[1]) ** 2)
    side = interval(apart, radius, depth * rays.blur) * interval(jnp.abs(place), half, depth * slope * rays.blur)
    side = jnp.where(depth > _NEAR, side, 0.0)
    end = _end(rays, centre - jnp.sign(offset) * half * axis, axis, radius)
    facing = jnp.abs(offset) > half
    end_cover = jnp.where(facing, end.cover, 0.0)
    front = end_cover > side
    pick = lambda one, other: jnp.where(front, one, other)
    nx, ny, nz = (pick(-jnp.sign(offset) * axis[i], normal[i]) for i in range(3))
    return Hit(jnp.minimum(side + end_cover, 1), pick(end.depth, depth), (nx, ny, nz))


def _end(rays: Rays, centre: Point, axis: Point, radius: Float[Array, ""]) -> Hit:
    """A disc at right angles to ``axis``; its normal is left to the caller."""
    along = rays.dot(axis)
    along = jnp.where(jnp.abs(along) < 1e-6, 1e-6, along)
    depth = centre @ axis / along
    q = rays.beyond(_split(centre), depth)
    apart, steep = root(_dot(q, q)), (rays.x * q[0] + rays.y * q[1] + q[2]) / along
    slope = root((q[0] - steep * axis[0]) ** 2 + (q[1] - steep * axis[1]) ** 2) * depth / apart
    return _seen(interval(apart, radius, slope * rays.blur), depth, q)


def _ball(rays: Rays, middle: Vector, radius: Float[Array, ""], depth: Map, cover: Map) -> Hit:
    """The hit of a surface at ``depth`` that faces away from ``middle``."""
    x, y, z = rays.beyond(middle, depth)
    scale = 1 / radius
    return _seen(cover, depth, (x * scale, y * scale, z * scale))


def _seen(cover: Map, depth: Map, normal: Vector) -> Hit:
    """Return the hit, or none where it would be behind the eye."""
    return Hit(jnp.where(depth > _NEAR, cover, 0.0), depth, normal)


def _split(point: Point) -> Vector:
    return point[0], point[1], point[2]


def _dot(left: Vector, right: Vector) -> Part:
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


def _unit(vector: Vector) -> Vector:
    scale = 1 / root(_dot(vector, vector))
    return vector[0] * scale, vector[1] * scale, vector[2] * scale


def root(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root of what is positive, and about 0 with gradient 0 elsewhere."""
    return jnp.sqrt(jnp.maximum(value, _TINY))


def interval(apart: Map, radius: Float[Array, "..."] | float, pixel: Map) -> Map:
    """Return the share of a pixel at ``apart`` that lies within ``[-radius, radius]``, in [0, 1]."""
    scale = 1 / jnp.maximum(pixel, _TINY)
    upper = jnp.clip((radius - apart) * scale + 0.5, 0, 1)
    return upper - jnp.clip((-radius - apart) * scale + 0.5, 0, 1)
