"""Env steps a second of Box2D itself on two of the box worlds, drawn as their images are; prints one JSON line each.

Needs `pip install box2d pillow numpy` and nothing of this project; `mbrl bench boxes` is what it is held against. As in
boxLCD a control step is three of Box2D's of 1/30 s with 180 velocity and 60 position iterations, and the image is
drawn by Pillow; `--iterations 8 3` are Box2D's own recommendation.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable

import Box2D
from Box2D.b2 import circleShape, edgeShape, fixtureDef, polygonShape
from PIL import Image, ImageDraw

HEIGHT = 5.0
RADIUS, LEG = 0.8 * 8 / 30, (8 / 60, 40 / 60)


def room(width: float) -> Box2D.b2World:
    """Return an empty room with four walls."""
    world = Box2D.b2World(gravity=(0, -9.81))
    corners = [(0, 0), (width, 0), (width, HEIGHT), (0, HEIGHT)]
    for corner, following in zip(corners, corners[1:] + corners[:1], strict=True):
        world.CreateStaticBody(shapes=edgeShape(vertices=[corner, following]))
    return world


def dropbox() -> tuple[Box2D.b2World, float]:
    """Return a falling box, and the room's width."""
    world = room(5.0)
    fixture = fixtureDef(shape=polygonShape(box=(0.7, 0.7)), density=0.1, friction=0.5)
    world.CreateDynamicBody(position=(2.5, 3.0), angle=0.3, fixtures=fixture)
    return world, 5.0


def urchin() -> tuple[Box2D.b2World, float]:
    """Return a ball with three motorised legs, and the room's width."""
    world, flags = room(10.0), {"categoryBits": 0x20, "maskBits": 1}
    ball = fixtureDef(shape=circleShape(radius=RADIUS), density=1, friction=1, **flags)
    root = world.CreateDynamicBody(position=(5.0, 1.25), fixtures=ball)
    for angle in (0.0, 2.0, 4.2):
        leg = fixtureDef(shape=polygonShape(box=LEG), density=1, friction=1, **flags)
        place = (5.0 + LEG[1] * math.sin(angle), 1.25 - LEG[1] * math.cos(angle))
        body = world.CreateDynamicBody(position=place, angle=angle, fixtures=leg)
        world.CreateRevoluteJoint(
            bodyA=root, bodyB=body, localAnchorA=(0, 0), localAnchorB=(0, LEG[1]), referenceAngle=angle,
            enableMotor=True, maxMotorTorque=150, motorSpeed=0, enableLimit=True, lowerAngle=-1, upperAngle=1)
    return world, 10.0


def draw(world: Box2D.b2World, width: float) -> Image.Image:
    """Return the image of sixteen rows."""
    scale = 16 / HEIGHT
    image = Image.new("1", (int(width * scale), 16))
    pen = ImageDraw.Draw(image)
    for body in world.bodies:
        for fixture in body.fixtures:
            shape = fixture.shape
            if isinstance(shape, circleShape):
                (x, y), r = body.position, shape.radius
                pen.ellipse([(x - r) * scale, (y - r) * scale, (x + r) * scale, (y + r) * scale], fill=1)
            elif isinstance(shape, polygonShape):
                points = [body.transform * vertex for vertex in shape.vertices]
                pen.polygon([(x * scale, y * scale) for x, y in points], fill=1)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def rate(make: Callable[[], tuple[Box2D.b2World, float]], drawn: bool, iterations: list[int], seconds: float) -> float:
    """Return env steps a CPU second of episodes of fifty steps with random commands."""
    world, width = make()
    steps, begin = 0, time.process_time()
    while time.process_time() - begin < seconds:
        if steps % 50 == 0:
            world, width = make()
        for joint in world.joints:
            joint.motorSpeed = 8 * random.uniform(-1, 1)
        for _ in range(3):
            world.Step(1 / 30, *iterations)
        if drawn:
            draw(world, width)
        steps += 1
    return steps / (time.process_time() - begin)


def main() -> None:
    """Time both worlds on one core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, nargs=2, default=[180, 60], help="of velocities and of positions")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    for make in (dropbox, urchin):
        for drawn in (False, True):
            found = rate(make, drawn, options.iterations, options.seconds)
            row = {"world": make.__name__, "drawn": drawn, "iterations": options.iterations}
            sys.stdout.write(json.dumps(row | {"steps_per_cpu_s": round(found)}) + "\n")


if __name__ == "__main__":
    main()
