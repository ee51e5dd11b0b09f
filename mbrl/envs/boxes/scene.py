"""What a world is made of: shapes, bodies, joints, a room with four walls; all of it static, lengths in metres."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Number: TypeAlias = float | int  # both are checked at run time, where an int is no float
Point: TypeAlias = tuple[Number, Number]

WALL_FRICTION = 0.2  # Box2D's default, which boxLCD leaves as it is


@dataclasses.dataclass(frozen=True)
class Shape:
    """A convex polygon, counter-clockwise, or a circle, whose one vertex is its centre."""

    vertices: tuple[Point, ...]
    radius: float = 0.0


@dataclasses.dataclass(frozen=True)
class Body:
    """Something rigid. The origin of its shapes need not be its centre of mass."""

    name: str
    shapes: tuple[Shape, ...]
    density: float = 1.0  # kg / m^2
    friction: float = 1.0  # of two surfaces that touch the geometric mean counts
    restitution: float = 0.0  # of two surfaces that touch the larger one counts
    linear_damping: float = 0.0  # 1 / s
    angular_damping: float = 0.0  # 1 / s
    touches_objects: bool = True  # parts of a robot never touch each other; some pass through objects, too
    maybe_circle: bool = False  # half of the episodes have a circle as wide as the box in its place


@dataclasses.dataclass(frozen=True)
class Joint:
    """A motorised hinge; the i-th of a robot carries its (i + 1)-th body.

    ``angle`` is the child's at rest, seen from the root; the joint's own angle is 0 there, and ``limits`` count from
    that. A joint without a range is to be written as one body of several shapes.
    """

    parent: str
    angle: float
    anchor_parent: Point
    anchor_child: Point
    limits: Point | None
    speed: float = 8.0  # rad / s, of a full action
    torque: float = 150.0  # N m, of a motor that is 1 rad / s slower than it should be


@dataclasses.dataclass(frozen=True)
class Robot:
    """A tree of bodies; the first is the root."""

    bodies: tuple[Body, ...]
    joints: tuple[Joint, ...]
    bound: float  # how far from every wall the root starts, and how high
    any_angle: bool = False  # whether the root starts at any angle or upright


@dataclasses.dataclass(frozen=True)
class World:
    """A room of ``width`` by ``height`` metres and what is in it; ``pixels`` are the rows and columns of its image."""

    width: float
    height: float
    pixels: tuple[int, int]
    robot: Robot | None = None
    objects: tuple[Body, ...] = ()

    @property
    def bodies(self) -> tuple[Body, ...]:
        """All bodies, those of the robot first."""
        return (self.robot.bodies if self.robot else ()) + self.objects

    @property
    def joints(self) -> tuple[Joint, ...]:
        """The robot's joints."""
        return self.robot.joints if self.robot else ()


def box(half_width: Number, half_height: Number) -> Shape:
    """Return a rectangle around the origin."""
    x, y = half_width, half_height
    return Shape(((-x, -y), (x, -y), (x, y), (-x, y)))


def circle(radius: Number) -> Shape:
    """Return a circle around the origin."""
    return Shape(((0.0, 0.0),), radius)


def placed(shape: Shape, offset: Point, angle: Number) -> Shape:
    """Return ``shape`` turned by ``angle`` around its origin and then moved by ``offset``."""
    c, s = math.cos(angle), math.sin(angle)
    points = tuple((c * x - s * y + offset[0], s * x + c * y + offset[1]) for x, y in shape.vertices)
    return Shape(points, shape.radius)


def area_and_moments(shapes: Sequence[Shape]) -> tuple[float, Point, float]:
    """Return the area [m^2], the centroid [m] and the second moment of area about it [m^4] of a union of shapes.

    By Green's theorem over each polygon's triangles; shapes that overlap count twice, as Box2D has it.
    """
    area, first, second = 0.0, np.zeros(2), 0.0
    for shape in shapes:
        points = np.asarray(shape.vertices)
        if len(points) == 1:
            part = math.pi * shape.radius**2
            area, first = area + part, first + part * points[0]
            second += part * (shape.radius**2 / 2 + float(points[0] @ points[0]))
            continue
        ahead = np.roll(points, -1, axis=0)
        cross = points[:, 0] * ahead[:, 1] - points[:, 1] * ahead[:, 0]
        area += cross.sum() / 2
        first = first + (cross[:, None] * (points + ahead)).sum(0) / 6
        second += float((cross * ((points**2 + points * ahead + ahead**2).sum(1))).sum()) / 12
    centre = first / area
    return float(area), (float(centre[0]), float(centre[1])), float(second - area * centre @ centre)
