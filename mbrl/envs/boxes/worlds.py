"""The worlds of boxLCD (Matthew Wilson, 2021), with its sizes, densities, joints and starting places.

Lengths of robots are written in its unit of 1/30 m.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mbrl.envs.boxes.scene import Body, Joint, Number, Point, Robot, Shape, World, box, circle, placed

_UNIT = 1 / 30
_HEIGHT = 5.0


def _limb(width: Number, height: Number) -> Shape:
    return box(width * _UNIT / 2, height * _UNIT / 2)


def _polygon(scale: Number, *points: Point) -> Shape:
    return Shape(tuple((scale * _UNIT * x, scale * _UNIT * y) for x, y in points))


def _at(x: Number, y: Number) -> Point:
    return x * _UNIT, y * _UNIT


def urchin() -> Robot:
    """A ball with three legs around it; the ball itself passes through objects."""
    root = Body("root", (circle(0.8 * 8 * _UNIT),), touches_objects=False)
    legs = tuple(Body(f"{letter}leg", (_limb(8, 40),)) for letter in "abc")
    joints = tuple(Joint("root", angle, (0.0, 0.0), _at(0, 20), (-1.0, 1.0)) for angle in (0.0, 2.0, 4.2))
    return Robot((root, *legs), joints, bound=1.25, any_angle=True)


def luxo() -> Robot:
    """A desk lamp that hops: head, hip, knee and foot in a chain."""
    head = _polygon(0.8, (-15, -15), (20, -25), (20, 25), (-15, 15))
    bodies = (
        Body("root", (head,), density=0.1),
        Body("lhip", (_limb(8, 24),)),
        Body("lknee", (_limb(0.8 * 8, 20),)),
        Body("lfoot", (_limb(2 * 24, 8),)),
    )
    joints = (
        Joint("root", -0.5, _at(-5, -10), _at(0, 12), (-0.1, 0.1)),
        Joint("lhip", 0.5, _at(0, -12), _at(0, 10), (-0.9, 0.9)),
        Joint("lknee", 0.0, _at(0, -12), _at(0, 4), (-0.5, 0.9)),
    )
    return Robot(bodies, joints, bound=2.0)


def crab() -> Robot:
    """A shell with two legs and two arms, each with a pair of claws; a claw's two halves are one body here."""
    shell = _polygon(0.9, (-25, 0), (-20, -16), (20, -16), (25, 0), (20, 16), (-20, 16))
    arm, leg, shin = _limb(8, 20), _limb(8, 20), _limb(0.8 * 8, 20)
    bodies = [Body("root", (shell,))]
    joints = []
    for side, x in (("l", -1), ("r", 1)):
        hip = (-1.5, 0.5) if side == "l" else (0.5, 1.5)
        bodies += [Body(f"{side}hip", (leg,)), Body(f"{side}knee", (shin,))]
        joints += [
            Joint("root", 0.5 * x, _at(20 * x, -12), _at(0, 10), hip),
            Joint(f"{side}hip", -0.5 * x, _at(0, -10), _at(0, 10), (-0.5, 0.5)),
        ]
        bodies += [Body(f"{side}shoulder", (arm,)), Body(f"{side}elbow", (arm,))]
        joints += [
            Joint("root", -2.0 * x, _at(20 * x, 12), _at(0, -10), None),
            Joint(f"{side}shoulder", -3.0 * x, _at(0, 10), _at(0, -10), None),
        ]
        for claw, turn in (("l", 1), ("r", -1)):
            bodies.append(Body(f"{side}{claw}claw", _claw(1.5 * turn)))
            limits = (-2.0, 1.0) if turn == 1 else (-1.0, 2.0)
            joints.append(Joint(f"{side}elbow", 2.25 * turn, _at(0, 10), _at(0, -8), limits))
    return Robot(tuple(bodies), tuple(joints), bound=2.0)


def _claw(bend: Number) -> tuple[Shape, Shape]:
    """Return two sticks, the second at the end of the first, bent by ``bend`` radians."""
    stick = _limb(4, 16)
    half = 8 * _UNIT
    return stick, placed(stick, (-half * math.sin(bend), half + half * math.cos(bend)), bend)


def _ball(name: str, density: float = 0.1) -> Body:
    return Body(name, (circle(0.5),), density, friction=0.5, restitution=0.8)


def _cube() -> Body:
    return Body("object0", (box(0.4, 0.4),), 0.5, friction=0.5, linear_damping=1.0, angular_damping=0.2)


def _either(name: str) -> Body:
    return Body(name, (box(0.5, 0.5),), 0.1, friction=0.5, restitution=0.8, maybe_circle=True)


def _room(ratio: float, robot: Robot | None = None, *objects: Body, rows: int = 16) -> World:
    return World(ratio * _HEIGHT, _HEIGHT, (rows, int(ratio * rows)), robot, objects)


WORLDS: dict[str, Callable[[], World]] = {
    "dropbox": lambda: _room(1.0, None, Body("object0", (box(0.7, 0.7),), 0.1, friction=0.5)),
    "bounce": lambda: _room(1.0, None, _ball("object0")),
    "bounce2": lambda: _room(1.0, None, _ball("object0"), _ball("object1")),
    "object2": lambda: _room(1.0, None, _either("object0"), _either("object1")),
    "urchin": lambda: _room(2.0, urchin()),
    "luxo": lambda: _room(2.0, luxo()),
    "urchin_cube": lambda: _room(1.5, urchin(), _cube()),
    "luxo_cube": lambda: _room(1.5, luxo(), _cube()),
    "urchin_ball": lambda: _room(1.5, urchin(), _ball("object0", 0.2)),
    "luxo_ball": lambda: _room(1.5, luxo(), _ball("object0", 0.2)),
    "crab": lambda: _room(2.0, crab(), rows=32),
}
