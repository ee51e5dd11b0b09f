"""Rays against shapes with flat faces: boxes, planes and the squares on them.

An edge of an outline and the eye span a plane, which cuts the picture along a line; what lies beyond that line is
taken off a pixel's coverage. So nothing need be divided by a depth, and corners behind the eye do no harm.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from mbrl.envs.render.shapes import Hit, Map, Point, Rays, Rotation


class Board(NamedTuple):
    """A checker board."""

    tile: tuple[float, float]  # the sides of a square
    size: tuple[float, float]  # half the sides of the board


def box(rays: Rays, centre: Point, axes: Rotation, size: Point, pixel: float) -> Hit:
    """A box with half sides ``size`` along the columns of ``axes``; ``pixel`` is a pixel's side at depth 1."""
    eye = -axes.T @ centre  # in the box's frame
    facing = [jnp.stack([-eye[i] > size[i], eye[i] > size[i]]) for i in range(3)]
    taken = jnp.zeros_like(rays.x)
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        for a in range(2):
            for b in range(2):
                corner = centre + (2 * a - 1) * size[i] * axes[:, i] + (2 * b - 1) * size[j] * axes[:, j]
                outline = facing[i][a] ^ facing[j][b]
                taken += jnp.where(outline, _beyond(rays, corner, axes[:, k], centre, pixel), 0.0)
    depth, still = jnp.full_like(rays.x, -1.0), jnp.zeros_like(rays.x)
    normal = still, still, still
    for i in range(3):
        sign = jnp.sign(eye[i])
        towards = rays.dot(axes[:, i]) * sign
        to_face = (size[i] - jnp.abs(eye[i])) / jnp.minimum(towards, -1e-6)
        later = (jnp.abs(eye[i]) > size[i]) & (to_face > depth) & (towards < -1e-6)
        depth = jnp.where(later, to_face, depth)
        x, y, z = (jnp.where(later, sign * axes[c, i], normal[c]) for c in range(3))
        normal = x, y, z
    return Hit(_left(taken, depth, jnp.stack([side.any() for side in facing]).any()), depth, normal)


def plane(rays: Rays, centre: Point, axes: Rotation, size: Point, pixel: float) -> Hit:
    """A rectangle with half sides ``size[:2]`` along the first two columns of ``axes``, seen from the third's side."""
    height = -centre @ axes[:, 2]
    taken = jnp.zeros_like(rays.x)
    for i in range(2):
        for sign in (-1, 1):
            side = centre + sign * size[i] * axes[:, i]
            taken += _beyond(rays, side, axes[:, 1 - i], centre, pixel)
    depth = -height / jnp.minimum(rays.dot(axes[:, 2]), -1e-6)
    normal = axes[0, 2], axes[1, 2], axes[2, 2]
    return Hit(_left(taken, depth, height > 0), depth, normal)


def _beyond(rays: Rays, point: Point, along: Point, inside: Point, pixel: float) -> Map:
    """Return the share of each pixel beyond the line through ``point``, seen from a point ``inside``."""
    across = jnp.cross(point, along)
    across *= -jnp.sign(across @ inside)
    flat = jnp.maximum(jnp.hypot(across[0], across[1]), 1e-6 * jnp.abs(across[2]) + 1e-12)
    return jnp.clip(rays.dot(across / (flat * pixel)) + 0.5, 0, 1)


def _left(taken: Map, depth: Map, facing: Bool[Array, ""]) -> Map:
    return jnp.where(facing & (depth > 0), jnp.clip(1 - taken, 0, 1), 0.0)


def squares(
    rays: Rays, centre: Point, axes: Rotation, board: Board, depth: Map, pixel: float
) -> Map:
    """Return how much of each pixel of a plane lies on every other square of a board, which begins at (-x, +y).

    A square wave averaged over a pixel is a difference of the triangle waves which are its integrals; the board is
    the product of one wave along each side.
    """
    product = jnp.ones_like(depth)
    tilt = rays.dot(axes[:, 2])
    tilt = jnp.where(jnp.abs(tilt) < 1e-6, 1e-6, tilt)
    for i in range(2):
        axis = axes[:, i]
        along = rays.dot(axis)
        sign, tile = 1 - 2 * i, board.tile[i]
        place = sign * (depth * along - centre @ axis) / tile + board.size[i] / tile % 2
        step = [axis[c] - along / tilt * axes[c, 2] for c in range(2)]
        width = jnp.maximum((jnp.abs(step[0]) + jnp.abs(step[1])) * jnp.abs(depth) * pixel / tile, 1e-3)
        # What is wider than a few squares is grey in all but rounding.
        wave = (_triangle(place + width / 2) - _triangle(place - width / 2)) / width
        product *= jnp.where(width > 16, 0.0, wave)
    return 0.5 - 0.5 * product


def _triangle(place: Map) -> Map:
    """The integral of a wave that is 1 in ``[0, 1)``, -1 in ``[1, 2)`` and so on."""
    half = place / 2
    return 1 - jnp.abs(2 * (half - jnp.floor(half)) - 1)
