"""Where two convex shapes touch: P pairs at a time, V vertices each, counter-clockwise, the batch B last.

Every function returns a manifold whose normals point from the first shape to the second.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

FAR = 1e3  # m, the gap of what does not touch
_TINY = 1e-9


class Manifold(NamedTuple):
    """At most C points of each of P pairs, in the room."""

    x: Float[Array, "P C B"]  # m
    y: Float[Array, "P C B"]
    normal_x: Float[Array, "P C B"]
    normal_y: Float[Array, "P C B"]
    gap: Float[Array, "P C B"]  # m, negative where the two overlap


class Outline(NamedTuple):
    """A polygon's vertices, and its edges from each vertex to the next with their outward normals."""

    x: Float[Array, "P V B"]
    y: Float[Array, "P V B"]
    ahead_x: Float[Array, "P V B"]
    ahead_y: Float[Array, "P V B"]
    normal_x: Float[Array, "P V B"]
    normal_y: Float[Array, "P V B"]


def choose(score: Float[Array, "P V B"], *values: Float[Array, "P V B"]) -> list[Float[Array, "P B"]]:
    """Return the largest score over V, and each of ``values`` there."""
    best = [score[:, 0], *(value[:, 0] for value in values)]
    for i in range(1, score.shape[1]):
        better = score[:, i] > best[0]
        best = [jnp.where(better, new[:, i], old) for new, old in zip((score, *values), best, strict=True)]
    return best


def two_largest(
    score: Float[Array, "P V B"], *values: Float[Array, "P V B"]
) -> list[Float[Array, "P two=2 B"]]:
    """Return the two largest scores over V, and each of ``values`` there."""
    columns = [(score[:, i], *(value[:, i] for value in values)) for i in range(score.shape[1])]
    first, second = columns[0], tuple(jnp.full_like(column, -FAR) for column in columns[0])
    for new in columns[1:]:
        leads, follows = new[0] > first[0], new[0] > second[0]
        second = tuple(
            jnp.where(leads, a, jnp.where(follows, c, b)) for a, b, c in zip(first, second, new, strict=True)
        )
        first = tuple(jnp.where(leads, c, a) for a, c in zip(first, new, strict=True))
    return [jnp.stack(pair, axis=1) for pair in zip(first, second, strict=True)]


def outline(
    x: Float[Array, "P V B"], y: Float[Array, "P V B"], normal_x: Float[Array, "P V B"], normal_y: Float[Array, "P V B"]
) -> Outline:
    """Return a polygon's edges, given its vertices and the outward normals of the edges that begin there."""
    return Outline(x, y, jnp.roll(x, -1, axis=1), jnp.roll(y, -1, axis=1), normal_x, normal_y)


def _least_overlap(one: Outline, other: Outline) -> list[Float[Array, "P B"]]:
    """Return how far the axis of one's edges that parts the two most does so, and that edge with its normal."""
    reach = (
        one.normal_x[:, :, None] * (other.x[:, None] - one.x[:, :, None])
        + one.normal_y[:, :, None] * (other.y[:, None] - one.y[:, :, None])
    ).min(2)
    return choose(reach, *one)


def _facing(
    one: Outline, other: Outline, first: Bool[Array, "P B"], normal: tuple[Float[Array, "P B"], Float[Array, "P B"]]
) -> list[Float[Array, "P B"]]:
    """Return where the edge begins and ends that faces a normal most: of ``one`` where ``first``, else of ``other``."""

    def most_opposed(shape: Outline) -> list[Float[Array, "P B"]]:
        opposed = -(shape.normal_x * normal[0][:, None] + shape.normal_y * normal[1][:, None])
        return choose(opposed, *shape[:4])[1:]

    if one.x.shape == other.x.shape:  # choosing the shape before the edge takes half as many numbers
        return most_opposed(Outline(*(jnp.where(first[:, None], a, b) for a, b in zip(one, other, strict=True))))
    return [jnp.where(first, a, b) for a, b in zip(most_opposed(one), most_opposed(other), strict=True)]


def polygon_polygon(one: Outline, other: Outline) -> Manifold:
    """Return two points, by the separating axis with the largest gap and the edge that faces it, cut to its length."""
    mine, theirs = _least_overlap(one, other), _least_overlap(other, one)
    # A little in favour of the first, so that rounding does not switch between two equal axes.
    swapped = theirs[0] > mine[0] + 1e-3
    x, y, end_x, end_y, normal_x, normal_y = (
        jnp.where(swapped, b, a) for a, b in zip(mine[1:], theirs[1:], strict=True)
    )
    x0, y0, x1, y1 = _facing(one, other, swapped, (normal_x, normal_y))
    along_x, along_y = end_x - x, end_y - y
    length = jnp.sqrt(along_x**2 + along_y**2 + _TINY)
    start, stop = (((px - x) * along_x + (py - y) * along_y) / length for px, py in ((x0, y0), (x1, y1)))
    overlap = jnp.minimum(jnp.maximum(start, stop), length) - jnp.maximum(jnp.minimum(start, stop), 0.0)
    span = stop - start
    safe = jnp.where(jnp.abs(span) > 1e-4, span, 1.0)
    share = jnp.stack([(jnp.clip(start, 0.0, length) - start) / safe, (jnp.clip(stop, 0.0, length) - start) / safe], 1)
    # An edge seen end on has no length along the other: both its ends count.
    share = jnp.where((jnp.abs(span) > 1e-4)[:, None], share, jnp.stack([jnp.zeros_like(span), jnp.ones_like(span)], 1))
    px = x0[:, None] + share * (x1 - x0)[:, None]
    py = y0[:, None] + share * (y1 - y0)[:, None]
    gap = (px - x[:, None]) * normal_x[:, None] + (py - y[:, None]) * normal_y[:, None]
    gap = jnp.where((overlap > 0)[:, None], gap, FAR)
    sign = jnp.where(swapped, -1.0, 1.0)
    nx, ny = (jnp.broadcast_to((sign * n)[:, None], gap.shape) for n in (normal_x, normal_y))
    return Manifold(px, py, nx, ny, gap)


def circle_polygon(
    x: Float[Array, "P B"], y: Float[Array, "P B"], radius: Float[Array, "P B"], other: Outline
) -> Manifold:
    """Return the one point of the polygon that is closest to the circle."""
    away = other.normal_x * (x[:, None] - other.x) + other.normal_y * (y[:, None] - other.y)
    depth, inner_x, inner_y = choose(away, other.normal_x, other.normal_y)
    along_x, along_y = other.ahead_x - other.x, other.ahead_y - other.y
    share = ((x[:, None] - other.x) * along_x + (y[:, None] - other.y) * along_y) / (along_x**2 + along_y**2 + _TINY)
    share = jnp.clip(share, 0.0, 1.0)
    near_x, near_y = other.x + share * along_x, other.y + share * along_y
    square, near_x, near_y = choose(-((near_x - x[:, None]) ** 2 + (near_y - y[:, None]) ** 2), near_x, near_y)
    distance = jnp.sqrt(_TINY - square)
    inside = depth < 0
    normal_x = jnp.where(inside, inner_x, (x - near_x) / distance)
    normal_y = jnp.where(inside, inner_y, (y - near_y) / distance)
    gap = jnp.where(inside, depth, distance) - radius
    return Manifold(*(part[:, None] for part in (near_x, near_y, -normal_x, -normal_y, gap)))


def circle_circle(
    one: tuple[Float[Array, "P B"], Float[Array, "P B"], Float[Array, "P B"]],
    other: tuple[Float[Array, "P B"], Float[Array, "P B"], Float[Array, "P B"]],
) -> Manifold:
    """Return the point between two circles, each ``(x, y, radius)``."""
    (x0, y0, r0), (x1, y1, r1) = one, other
    distance = jnp.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2 + _TINY)
    normal_x, normal_y = (x1 - x0) / distance, (y1 - y0) / distance
    parts = (x0 + r0 * normal_x, y0 + r0 * normal_y, normal_x, normal_y, distance - r0 - r1)
    return Manifold(*(part[:, None] for part in parts))


def flipped(manifold: Manifold) -> Manifold:
    """Return the manifold of the two shapes in the other order."""
    return manifold._replace(normal_x=-manifold.normal_x, normal_y=-manifold.normal_y)


def padded(manifold: Manifold) -> Manifold:
    """Return a manifold of one point as one of two, the second of them nowhere."""
    double = Manifold(*(jnp.concatenate([part, part], axis=1) for part in manifold))
    return double._replace(gap=jnp.concatenate([manifold.gap, jnp.full_like(manifold.gap, FAR)], axis=1))
