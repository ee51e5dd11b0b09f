"""A world as numbers: generalised coordinates, lever arms, masses; worked out once, outside of any trace.

Coordinates are, of each robot or object in turn, the root's centre of mass x, y [m] and then the angle [rad] of each of
its bodies, seen from the room. With absolute angles every centre of mass of a tree of hinges is

    p_i = (x, y) + sum_a R(phi_a) d_ia

with constant lever arms d_ia: hinges cannot come apart, and every Jacobian is a rotated lever arm. Q counts
coordinates, N bodies, J joints; arrays of the simulation carry the batch B as their last axis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mbrl.envs.boxes.scene import Body, Joint, Point, Shape, World, area_and_moments


class Solid(NamedTuple):
    """A shape of one body, in coordinates of that body's centre of mass."""

    body: int
    vertices: np.ndarray  # [V, 2] m; one for a circle
    normals: np.ndarray  # [V, 2] of the edge from each vertex to the next, outwards
    radius: float  # m
    maybe_circle: bool


class Model(NamedTuple):
    """The static numbers of a world."""

    names: tuple[str, ...]  # N
    robot: int  # how many of the bodies are the robot's
    roots: tuple[int, ...]  # the first body of each tree
    position: np.ndarray  # [N, Q] 1 where x of the body's root stands; y is the next coordinate
    angle: np.ndarray  # [N] the coordinate of each body's angle
    lever: np.ndarray  # [N, Q, 2] m, d_ia
    mass: np.ndarray  # [N] kg
    inertia: np.ndarray  # [N] kg m^2
    circle_mass: np.ndarray  # [N] of the circle in a box's place, where there may be one
    circle_inertia: np.ndarray  # [N]
    maybe_circle: np.ndarray  # [N] bool
    friction: np.ndarray  # [N]
    restitution: np.ndarray  # [N]
    linear_damping: np.ndarray  # [N] 1 / s
    angular_damping: np.ndarray  # [N] 1 / s
    solids: tuple[Solid, ...]
    pairs: tuple[tuple[int, int], ...]  # of solids that may touch
    difference: np.ndarray  # [J, Q] a joint's angle is this times q, less `rest`
    rest: np.ndarray  # [J] rad
    limits: np.ndarray  # [J, 2] rad, infinite where there are none
    speed: np.ndarray  # [J] rad / s
    gain: np.ndarray  # [J] N m s / rad


def build(world: World) -> Model:
    """Work out the numbers of a world."""
    bodies, joints = world.bodies, world.joints
    count = len(bodies)
    robot = len(joints) + 1 if world.robot else 0
    roots = ((0,) if robot else ()) + tuple(range(robot, count))
    starts = np.cumsum([0, *((robot + 2,) if robot else ()), *[3] * (count - robot)]).tolist()
    measures = [area_and_moments(body.shapes) for body in bodies]
    position, lever = np.zeros((count, starts[-1])), np.zeros((count, starts[-1], 2))
    angle = np.zeros(count, int)
    for root, start in zip(roots, starts, strict=False):
        position[root, start], angle[root] = 1, start + 2
    names = tuple(body.name for body in bodies)
    for child, joint in enumerate(joints, 1):
        parent = names.index(joint.parent)
        position[child], angle[child], lever[child] = position[parent], 2 + child, lever[parent]
        lever[child, angle[parent]] += np.subtract(joint.anchor_parent, measures[parent][1])
        lever[child, angle[child]] -= np.subtract(joint.anchor_child, measures[child][1])
    density = np.array([body.density for body in bodies])
    solids = tuple(_solid(i, shape, measures[i][1], body) for i, body in enumerate(bodies) for shape in body.shapes)
    disc = np.array([abs(solids_of(solids, i)[0].vertices[0, 0]) for i in range(count)])
    return Model(
        names=names,
        robot=robot,
        roots=roots,
        position=position,
        angle=angle,
        lever=lever,
        mass=density * [area for area, _, _ in measures],
        inertia=density * [moment for _, _, moment in measures],
        circle_mass=density * np.pi * disc**2,
        circle_inertia=density * np.pi * disc**4 / 2,
        maybe_circle=np.array([body.maybe_circle for body in bodies]),
        friction=np.array([body.friction for body in bodies]),
        restitution=np.array([body.restitution for body in bodies]),
        linear_damping=np.array([body.linear_damping for body in bodies]),
        angular_damping=np.array([body.angular_damping for body in bodies]),
        solids=solids,
        pairs=_pairs(solids, bodies, robot),
        **_joint_numbers(names, joints, angle, starts[-1]),
    )


def solids_of(solids: tuple[Solid, ...], body: int) -> list[Solid]:
    """Return the solids of one body."""
    return [solid for solid in solids if solid.body == body]


def _solid(body: int, shape: Shape, centre: Point, of: Body) -> Solid:
    vertices = np.asarray(shape.vertices) - np.asarray(centre)
    along = np.roll(vertices, -1, axis=0) - vertices
    length = np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    normals = np.stack([along[:, 1], -along[:, 0]], axis=1) / length
    return Solid(body, vertices, normals, shape.radius, of.maybe_circle)


def _pairs(solids: tuple[Solid, ...], bodies: tuple[Body, ...], robot: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs of solids that may touch: an object and another one, or a part of the robot that may."""
    pairs = []
    for i, one in enumerate(solids):
        for j, other in enumerate(solids[i + 1 :], i + 1):
            free = one.body >= robot or bodies[one.body].touches_objects
            if one.body != other.body and other.body >= robot and free:
                pairs.append((i, j))
    return tuple(pairs)


def _joint_numbers(names: tuple[str, ...], joints: tuple[Joint, ...], angle: np.ndarray, size: int) -> dict:
    difference, rest = np.zeros((len(joints), size)), np.zeros(len(joints))
    at_rest = {names[0]: 0.0}
    for j, joint in enumerate(joints):
        child, parent = j + 1, names.index(joint.parent)
        difference[j, angle[child]], difference[j, angle[parent]] = 1, -1
        at_rest[names[child]] = joint.angle
        rest[j] = joint.angle - at_rest[joint.parent]
    return {
        "difference": difference,
        "rest": rest,
        "limits": np.array([joint.limits or (-np.inf, np.inf) for joint in joints]).reshape(-1, 2),
        "speed": np.array([joint.speed for joint in joints]),
        "gain": np.array([joint.torque for joint in joints]),
    }
