"""Which points touch or are about to, as rows of constraints on the velocity.

A contact is a point, a normal and a gap; its two rows are the normal and the tangent velocity there, as functions of
the coordinates' velocities. Gaps count how far apart two surfaces are, so contacts are known before they happen.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mbrl.envs.boxes.knobs import Knobs
from mbrl.envs.boxes.model import Model, Solid
from mbrl.envs.boxes.motion import Pose, constant, rows, total
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
    tangent: Float[Array, "K Q B"] | None
    friction: Float[Array, "K B"]
    restitution: Float[Array, "K B"]


class Placed(NamedTuple):
    """Solids with equally many vertices, in the room; G of them, V vertices each."""

    body: np.ndarray  # [G]
    x: Float[Array, "G V B"]  # m
    y: Float[Array, "G V B"]
    normal_x: Float[Array, "G V B"]  # of the edge from each vertex to the next, outwards
    normal_y: Float[Array, "G V B"]
    radius: Float[Array, "G B"]  # m


def place(solids: list[Solid], pose: Pose, size: Float[Array, "B"], disc: Float[Array, "N B"]) -> Placed:
    """Return solids with equally many vertices where they are in the room.

    A box with a circle in its place has all its vertices in the middle, and the circle's radius.
    """
    body = np.array([solid.body for solid in solids])
    round_ = rows(disc, body) * constant(np.array([float(solid.maybe_circle) for solid in solids]), 2)
    local = constant(np.stack([solid.vertices for solid in solids]), 4) * ((1 - round_) * size[None])[:, None, None]
    radius = constant(np.array([solid.radius for solid in solids]), 2)
    inner = constant(np.array([abs(solid.vertices[0, 0]) for solid in solids]), 2)
    normal = constant(np.stack([solid.normals for solid in solids]), 4)
    cos, sin = rows(pose.cos, body)[:, None], rows(pose.sin, body)[:, None]
    return Placed(
        body,
        rows(pose.x, body)[:, None] + cos * local[:, :, 0] - sin * local[:, :, 1],
        rows(pose.y, body)[:, None] + sin * local[:, :, 0] + cos * local[:, :, 1],
        cos * normal[:, :, 0] - sin * normal[:, :, 1],
        sin * normal[:, :, 0] + cos * normal[:, :, 1],
        (radius + round_ * inner) * size[None],
    )


def find(
    model: Model, room: tuple[float, float], pose: Pose, knobs: Knobs, disc: Float[Array, "N B"], q: Float[Array, "Q B"]
) -> list[Contacts]:
    """Return all rows in groups: limits of joints, then pairs of bodies, then walls, the last word of a sweep.

    Args:
        model: the world's numbers.
        room: its width and height [m].
        pose: where the bodies are.
        knobs: of the episode.
        disc: 1 where a circle stands in a box's place.
        q: the coordinates.
    """
    found = _limits(model, q)
    placed = [place([solid], pose, knobs.size, disc) for solid in model.solids]
    found += [_pair_rows(model, pose, knobs, _together(placed, pairs, model, disc), pairs) for pairs in _groups(model)]
    for count in sorted({len(solid.vertices) for solid in model.solids}):
        solids = [solid for solid in model.solids if len(solid.vertices) == count]
        found += _wall_rows(model, room, pose, knobs, place(solids, pose, knobs.size, disc))
    return found


def count(model: Model) -> int:
    """Return K, how many rows ``find`` returns in all."""
    pairs = sum(1 if 1 in {len(model.solids[i].vertices) for i in pair} else 2 for pair in model.pairs)
    walls = sum(min(len(solid.vertices), 1) + min(len(solid.vertices), 2) for solid in model.solids)
    return int(np.isfinite(model.limits).all(1).sum()) + pairs + walls


def _limits(model: Model, q: Float[Array, "Q B"]) -> list[Contacts]:
    """Return the nearer side of every joint that has limits."""
    limited = np.isfinite(model.limits).all(1)
    if not limited.any():
        return []
    difference = model.difference[limited]
    angle = total(constant(difference, 3) * q[None], 1) - constant(model.rest[limited], 2)
    low, high = (constant(model.limits[limited, side], 2) for side in (0, 1))
    side = jnp.where(angle - low < high - angle, 1.0, -1.0)
    gap = jnp.minimum(angle - low, high - angle)
    normal = constant(difference, 3) * side[:, None]
    return [Contacts(gap, normal, None, jnp.zeros_like(gap), jnp.zeros_like(gap))]


def _groups(model: Model) -> list[list[tuple[int, int]]]:
    """Return the pairs that may touch, those of the same two kinds of shape together."""
    kinds: dict[tuple, list[tuple[int, int]]] = {}
    for pair in model.pairs:
        kinds.setdefault(tuple(_kind(model.solids[i]) for i in pair), []).append(pair)
    return list(kinds.values())


def _kind(solid: Solid) -> tuple[int, bool]:
    return len(solid.vertices), solid.maybe_circle


def _joined(parts: list[Placed]) -> Placed:
    return Placed(
        np.concatenate([part.body for part in parts]),
        *(jnp.concatenate([part[i] for part in parts]) for i in range(1, len(Placed._fields))),
    )


def _together(
    placed: list[Placed], pairs: list[tuple[int, int]], model: Model, disc: Float[Array, "N B"]
) -> Manifold:
    """Return where the pairs of one group touch; what may be a circle is seen as both, and then as what it is."""
    one, other = (_joined([placed[pair[side]] for pair in pairs]) for side in (0, 1))
    kinds = [_kind(model.solids[i]) for i in pairs[0]]
    flat = all(count > 1 for count, _ in kinds)  # so that they may touch along an edge, in two points
    is_disc = [(rows(disc, p.body) > 0)[:, None] for p in (one, other)]

    def touch(other_round: bool) -> Manifold:
        return _either(is_disc[0], [_touch(one, is_round, other, other_round, flat) for is_round in _rounds(kinds[0])])

    return _either(is_disc[1], [touch(other_round) for other_round in _rounds(kinds[1])])


def _rounds(kind: tuple[int, bool]) -> tuple[bool, ...]:
    """Return whether a solid is a circle, both answers where it may be."""
    count, maybe = kind
    if count == 1:
        return (True,)
    return (False, True) if maybe else (False,)


def _either(is_disc: Bool[Array, "P one=1 B"], manifolds: list[Manifold]) -> Manifold:
    """Return the second manifold where a circle stands in a box's place, else the first; the one there is of one."""
    first, *second = manifolds
    return Manifold(*(jnp.where(is_disc, b, a) for a, b in zip(first, *second, strict=True))) if second else first


def _touch(one: Placed, one_round: bool, other: Placed, other_round: bool, flat: bool) -> Manifold:
    """Return where pairs of solids touch, each taken for a circle or for a polygon; two points each if ``flat``."""
    first, second = ((p.x[:, 0], p.y[:, 0], p.radius) for p in (one, other))
    if not (one_round or other_round):
        return polygon_polygon(outline(*one[1:5]), outline(*other[1:5]))
    if one_round and other_round:
        found = circle_circle(first, second)
    elif one_round:
        found = circle_polygon(*first, outline(*other[1:5]))
    else:
        found = flipped(circle_polygon(*second, outline(*one[1:5])))
    return padded(found) if flat else found


def _velocity(
    model: Model, pose: Pose, body: np.ndarray, x: Float[Array, "G C B"], y: Float[Array, "G C B"]
) -> tuple[Float[Array, "G C Q B"], Float[Array, "G C Q B"]]:
    """Return the Jacobians of C points in the room on each of the bodies ``[G]``."""
    own = constant(np.eye(model.position.shape[1])[model.angle[body]][:, None], 4)
    arm_x, arm_y = x - rows(pose.x, body)[:, None], y - rows(pose.y, body)[:, None]
    along_x, along_y = (rows(jacobian, body)[:, None] for jacobian in (pose.jacobian_x, pose.jacobian_y))
    return along_x - own * arm_y[:, :, None], along_y + own * arm_x[:, :, None]


def _flat(array: Float[Array, "G C ..."]) -> Float[Array, "K ..."]:
    return array.reshape(-1, *array.shape[2:])


def _surface(
    friction: np.ndarray, restitution: np.ndarray, knobs: Knobs, points: int
) -> tuple[Float[Array, "K B"], Float[Array, "K B"]]:
    """Return the friction and the restitution of bodies ``[G]`` that touch in so many points each."""
    rub, bounce = (constant(np.repeat(values, points), 2) for values in (friction, restitution))
    return rub * knobs.friction[None], jnp.minimum(bounce * knobs.restitution[None], 1.0)


def _pair_rows(model: Model, pose: Pose, knobs: Knobs, manifold: Manifold, pairs: list[tuple[int, int]]) -> Contacts:
    one, other = (np.array([model.solids[pair[side]].body for pair in pairs]) for side in (0, 1))
    x, y, normal_x, normal_y, gap = manifold
    first, second = (_velocity(model, pose, body, x, y) for body in (one, other))
    across_x, across_y = second[0] - first[0], second[1] - first[1]
    normal_x, normal_y = normal_x[:, :, None], normal_y[:, :, None]
    friction = np.sqrt(model.friction[one] * model.friction[other])
    bounce = np.maximum(model.restitution[one], model.restitution[other])
    return Contacts(
        _flat(gap),
        _flat(normal_x * across_x + normal_y * across_y),
        _flat(normal_x * across_y - normal_y * across_x),
        *_surface(friction, bounce, knobs, gap.shape[1]),
    )


def _wall_rows(model: Model, room: tuple[float, float], pose: Pose, knobs: Knobs, placed: Placed) -> list[Contacts]:
    """Return each solid's contacts with the nearer of two walls, side walls first and floor or ceiling then.

    Of a polygon the vertex that is closest to a side wall, and the two that are closest to floor or ceiling: what
    stands needs two.
    """
    found = []
    body = placed.body
    for axis, extent in enumerate(room):
        at = (placed.x, placed.y)[axis]
        sign = jnp.where(rows((pose.x, pose.y)[axis], body) < extent / 2, 1.0, -1.0)
        gap = jnp.where(sign[:, None] > 0, at, extent - at) - placed.radius[:, None]
        x, y = placed.x, placed.y
        if x.shape[1] > 1:
            near = two_largest(-gap, x, y)
            gap, x, y = (part[:, : axis + 1] for part in (-near[0], *near[1:]))
        inset = (sign * placed.radius)[:, None]
        velocity = _velocity(model, pose, body, x - inset * (axis == 0), y - inset * (axis == 1))
        surface = _surface(
            np.sqrt(model.friction[body] * WALL_FRICTION), model.restitution[body], knobs, gap.shape[1])
        normal = sign[:, None, None] * velocity[axis]
        found.append(Contacts(_flat(gap), _flat(normal), _flat(velocity[1 - axis]), *surface))
    return found
