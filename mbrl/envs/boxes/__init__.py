"""The 2-D worlds of boxLCD: rigid bodies in a room, seen as a small picture of one bit a pixel."""

from mbrl.envs.boxes.env import Boxes, BoxesState, Goal, variant
from mbrl.envs.boxes.knobs import Knobs, Physics, Ranges
from mbrl.envs.boxes.scene import Body, Joint, Robot, Shape, World, box, circle
from mbrl.envs.boxes.worlds import WORLDS

__all__ = [
    "WORLDS",
    "Body",
    "Boxes",
    "BoxesState",
    "Goal",
    "Joint",
    "Knobs",
    "Physics",
    "Ranges",
    "Robot",
    "Shape",
    "World",
    "box",
    "circle",
    "variant",
]
