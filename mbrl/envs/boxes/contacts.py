"""Which points touch or are about to, as rows of constraints on the velocity.

A contact is a point, a normal and a gap; its two rows are the normal and the tangent velocity there, as functions of
the coordinates' velocities. Gaps count how far apart two surfaces are, so contacts are known before they happen.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mbrl.envs.boxes.knobs import Knobs
from mbrl.envs.boxes.model import Model, Solid
from mbrl.envs.boxes.motion import Pose, constant
from mbrl.envs.boxes.polygons import (
    Manifold,
    circle_circle,
    circle_polygon,
    flipped,
    outline,
    padded,
    polygon_polygon,
    two_largest,
)
from mbrl.envs.boxes.scene import WALL_FRICTION


class Contacts(NamedTuple):
    """K rows, each with a normal and a tangent; Q coordinates, B batch. A joint's limit is a row without a tangent."""

    gap: Float[Array, "K B"]  # m, or rad of a limit
    normal: Float[Array, "K Q B"]  # the gap's derivative by the coordinates
    tangent: Float[Array, "K Q B"]
    friction: Float[Array, "K B"]
    restitution: Float[Array, "K B"]


class Placed(NamedTuple):
    """Solids with equally many vertices, in the room; G of them, V vertices each."""

    body: np.ndarray  # [G]
    x: Float[Array, "G V B"]  # m
    y: Float[Array, "G V B"]
    radius: Float[Array, "G B"]  # m


def place(solids: list[Solid], pose: Pose, size: Float[Array, "B"], disc: Float[Array, "N B"]) -> Placed:
    """Return solids with equally many vertices where they are in the room.

    A box with a circle in its place has all its vertices in the middle, and the circle's radius.
    """
    body = np.array([solid.body for solid in solids])
    round_ = disc[body] * constant(np.array([float(solid.maybe_circle) for solid in solids]), 2)
    local = constant(np.stack([solid.vertices for solid in solids]), 4) * ((1 - round_) * size[None])[:, None, None]
    radius = constant(np.array([solid.radius for solid in solids]), 2)
    inner = constant(np.array([abs(solid.vertices[0, 0]) for solid in solids]), 2)
    cos, sin = pose.cos[body][:, None], pose.sin[body][:, None]
    return Placed(
        body,
        pose.x[body][:, None] + cos * local[:, :, 0] - sin * local[:, :, 1],
        pose.y[body][:, None] + sin * local[:, :, 0] + cos * local[:, :, 1],
        (radius + round_ * inner) * size[None],
    )


def find(
    model: Model, room: tuple[float, float], pose: Pose, knobs: Knobs, disc: Float[Array, "N B"], q: Float[Array, "Q B"]
) -> Contacts:
    """Return all rows: limits of joints, then pairs of bodies, then walls, the last of which the solver ends with.

    Args:
        model: the world's numbers.
        room: its width and height [m].
        pose: where the bodies are.
        knobs: of the episode.
        disc: 1 where a circle stands in a box's place.
        q: the coordinates.
    """
    rows = _limits(model, q)
    placed = [place([solid], pose, knobs.size, disc) for solid in model.solids]
    rows += [_pair_rows(model, pose, knobs, _together(placed, pairs, model, disc), pairs) for pairs in _groups(model)]
    for count in sorted({len(solid.vertices) for solid in model.solids}):
        solids = [solid for solid in model.solids if len(solid.vertices) == count]
        rows += _wall_rows(model, room, pose, knobs, place(solids, pose, knobs.size, disc))
    return Contacts(*(jnp.concatenate(parts) for parts in zip(*rows, strict=True)))


def _limits(model: Model, q: Float[Array, "Q B"]) -> list[Contacts]:
    """Return the two sides of every joint that has limits."""
    limited = np.isfinite(model.limits).all(1)
    if not limited.any():
        return []
    difference = model.difference[limited]
    angle = (constant(difference, 3) * q[None]).sum(1) - constant(model.rest[limited], 2)
    low, high = (constant(model.limits[limited, side], 2) for side in (0, 1))
    gap = jnp.concatenate([angle - low, high - angle])
    normal = constant(np.concatenate([difference, -difference]), 3) * jnp.ones_like(gap)[:, None]
    nothing = jnp.zeros_like(gap)
    return [Contacts(gap, normal, jnp.zeros_like(normal), nothing, nothing)]


def _groups(model: Model) -> list[list[tuple[int, int]]]:
    """Return the pairs that may touch, those of the same two kinds of shape together."""
    kinds: dict[tuple, list[tuple[int, int]]] = {}
    for pair in model.pairs:
        kinds.setdefault(tuple(_kind(model.solids[i]) for i in pair), []).append(pair)
    return list(kinds.values())


def _kind(solid: Solid) -> tuple[int, bool]:
    return len(solid.vertices), solid.maybe_circle


def _together(
    placed: list[Placed], pairs: list[tuple[int, int]], model: Model, disc: Float[Array, "N B"]
) -> Manifold:
    """Return where the pairs of one group touch."""
    one, other = (
        Placed(*(jnp.concatenate(parts) if i else np.concatenate(parts) for i, parts in enumerate(
            zip(*(placed[pair[side]] for pair in pairs), strict=True)))) for side in (0, 1)
    )
    (count, maybe), (other_count, other_maybe) = (_kind(model.solids[i]) for i in pairs[0])
    as_circles = [(p.x[:, 0], p.y[:, 0], p.radius) for p in (one, other)]
    if count == other_count == 1:
        return circle_circle(*as_circles)
    if count == 1:
        return circle_polygon(*as_circles[0], outline(other.x, other.y))
    if other_count == 1:
        return flipped(circle_polygon(*as_circles[1], outline(one.x, one.y)))
    manifold = polygon_polygon(outline(one.x, one.y), outline(other.x, other.y))
    if not (maybe and other_maybe):
        return manifold
    mixed = padded(circle_polygon(*as_circles[0], outline(other.x, other.y)))
    mirrored = padded(flipped(circle_polygon(*as_circles[1], outline(one.x, one.y))))
    both = padded(circle_circle(*as_circles))
    first, second = ((disc[p.body] > 0)[:, None] for p in (one, other))
    return Manifold(*(
        jnp.where(first, jnp.where(second, d, b), jnp.where(second, c, a))
        for a, b, c, d in zip(manifold, mixed, mirrored, both, strict=True)
    ))


def _pair_rows(model: Model, pose: Pose, knobs: Knobs, manifold: Manifold, pairs: list[tuple[int, int]]) -> Contacts:
    points = manifold.gap.shape[1]
    bodies = [np.repeat([model.solids[pair[side]].body for pair in pairs], points) for side in (0, 1)]
    x, y, normal_x, normal_y, gap = (part.reshape(-1, part.shape[-1]) for part in manifold)
    (first_x, first_y), (second_x, second_y) = (
        _velocity(model, pose, body, x - pose.x[body], y - pose.y[body]) for body in bodies
    )
    across_x, across_y = second_x - first_x, second_y - first_y
    frictions = [model.friction[body] for body in bodies]
    bounce = np.maximum(*(model.restitution[body] for body in bodies))
    return Contacts(
        gap,
        normal_x[:, None] * across_x + normal_y[:, None] * across_y,
        normal_x[:, None] * across_y - normal_y[:, None] * across_x,
        *_surface(np.sqrt(frictions[0] * frictions[1]), bounce, knobs),
    )


def _surface(
    friction: np.ndarray, restitution: np.ndarray, knobs: Knobs
) -> tuple[Float[Array, "K B"], Float[Array, "K B"]]:
    """Return what a contact's friction and restitution are in this episode."""
    return constant(friction, 2) * knobs.friction[None], jnp.minimum(constant(restitution, 2) * knobs.restitution[None], 1.0)


def _velocity(
    model: Model, pose: Pose, body: np.ndarray, x: Float[Array, "K B"], y: Float[Array, "K B"]
) -> tuple[Float[Array, "K Q B"], Float[Array, "K Q B"]]:
    """Return the Jacobians of points ``(x, y)`` [m] away from the centres of mass of bodies ``[K]``."""
    own = constant(np.eye(model.position.shape[1])[model.angle[body]], 3)
    return pose.jacobian_x[body] - own * y[:, None], pose.jacobian_y[body] + own * x[:, None]


def _wall_rows(model: Model, room: tuple[float, float], pose: Pose, knobs: Knobs, placed: Placed) -> list[Contacts]:
    """Return each solid's contacts with the nearer of two walls, side walls first and floor or ceiling then.

    Of a polygon the two vertices that are closest to the wall.
    """
    rows = []
    body, points = placed.body, min(placed.x.shape[1], 2)
    bodies = np.repeat(body, points)
    for axis, extent in enumerate(room):
        at = (placed.x, placed.y)[axis]
        sign = jnp.where((pose.x, pose.y)[axis][body] < extent / 2, 1.0, -1.0)
        gap = jnp.where(sign[:, None] > 0, at, extent - at) - placed.radius[:, None]
        x, y = placed.x, placed.y
        if points == 2:
            closeness, x, y = two_largest(-gap, x, y)
            gap = -closeness
        inset = sign * placed.radius
        x, y = (x - inset[:, None], y) if axis == 0 else (x, y - inset[:, None])
        x, y, gap = (part.reshape(-1, part.shape[-1]) for part in (x, y, gap))
        velocity = _velocity(model, pose, bodies, x - pose.x[bodies], y - pose.y[bodies])
        toward = jnp.repeat(sign, points, axis=0)[:, None]
        surface = _surface(np.sqrt(model.friction[bodies] * WALL_FRICTION), model.restitution[bodies], knobs)
        rows.append(Contacts(gap, toward * velocity[axis], velocity[1 - axis], *surface))
    return rows
