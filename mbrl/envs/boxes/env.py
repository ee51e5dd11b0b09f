"""The worlds as environments: starting places, observations, goals."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array, Float, UInt8

from mbrl.core.errors import UserError, unknown
from mbrl.core.types import LAST, MID, PRNGKey, TimeStep, restart
from mbrl.envs.boxes import render
from mbrl.envs.boxes.engine import Motion, advance
from mbrl.envs.boxes.knobs import Knobs, Physics, Ranges, check, check_size, draw, fixed
from mbrl.envs.boxes.model import build
from mbrl.envs.boxes.scene import Body, World
from mbrl.envs.boxes.start import Start
from mbrl.envs.boxes.worlds import WORLDS

GoalKind: TypeAlias = Literal["body", "object", "object_body"]
NEAR = 0.05  # of half the room: the mean distance at which a goal is reached
_SETTLE = 10  # control steps without action that a goal state falls for


class Goal(NamedTuple):
    """Where an episode should lead."""

    position: Float[Array, "*N G"]  # x and y of the bodies that count, the room from -1 to 1
    image: UInt8[Array, "*N H W 1"]
    distance: Float[Array, "*N"]  # from there in the newest state, the mean over the G coordinates


class BoxesState(NamedTuple):
    """All there is to know about a world."""

    motion: Motion  # [Q] coordinates and velocities
    knobs: Knobs
    disc: Float[Array, "*N bodies"]  # 1 where a circle stands in a box's place
    goal: Goal | None


class Boxes:
    """A 2-D world of boxLCD, seen as a small picture of one bit a pixel.

    An observation is ``{"image": uint8 [H, W, 1] of 0 and 1}``; with a robot also ``"proprio"``, float32, x and y
    (the room from -1 to 1), cosine and sine of each of its parts, in the order of ``proprio_names``; with a goal also
    ``"goal"``, x and y of the parts that count, and ``"goal_image"`` if asked for. Velocities are not seen.
    An action is the speed of each joint, as a share of its largest, in [-1, 1]. A world without a robot has an action
    of size 1 that does nothing. A control step is 0.1 s.

    Without a goal every reward is 0. With one it is, as in boxLCD, with d the mean distance of the goal's coordinates:
    -d for a goal of the robot's body, 10 (d_before - d) - 0.05 for one that an object is part of; and 1 more, and the
    end of the episode, once d < 0.05. The goal is what a fresh episode of the same world looks like after 1 s at rest.

    Args:
        world: a name of ``WORLDS``, or a world of your own.
        goal: what the reward is about, if anything.
        goal_image: whether the goal's picture is part of the observation.
        physics: the knobs.
        ranges: from where to where knobs are drawn for each episode, if they are.

    Attributes:
        dt: how long a control step lasts, s.
        alike: names of bodies that no picture tells apart, those together that are alike.

    Raises:
        UserError: when there is no such world, it lacks what the goal is about, or a knob makes no sense.
    """

    dt = 0.1

    def __init__(
        self,
        world: str | World,
        *,
        goal: GoalKind | None = None,
        goal_image: bool = False,
        physics: Physics = Physics(),
        ranges: Ranges | None = None,
    ) -> None:
        if isinstance(world, str) and world not in WORLDS:
            raise unknown("world", world, WORLDS)
        check(physics, ranges)
        self.world = WORLDS[world]() if isinstance(world, str) else world
        self.goal, self.goal_image, self.physics, self.ranges = goal, goal_image, physics, ranges
        self.model = build(self.world)
        self._room = (self.world.width, self.world.height)
        self._advance = advance(self.model, self._room)
        self._bits = render.bits(self.model, self._room, self.world.pixels)
        self._start = Start(self.world, self.model)
        check_size(physics, ranges, self._start.most)
        self._aims = self._goal_bodies()
        robot = self.world.robot.bodies if self.world.robot else ()
        self.alike = _alike((*robot, *self.world.objects))

    def _goal_bodies(self) -> np.ndarray:
        """Return which bodies the goal is about."""
        robot, bodies = self.model.robot, len(self.model.names)
        for part, there in (("body", robot > 0), ("object", bodies > robot)):
            if part in (self.goal or "").split("_") and not there:
                raise UserError(f"a goal of kind {self.goal!r} needs a world with {_NEEDS[part]}; this one has none")
        parts = {None: (0, 0), "body": (0, robot), "object": (robot, bodies), "object_body": (0, bodies)}
        return np.arange(*parts[self.goal])

    @property
    def observation_spec(self) -> dict[str, specs.Array]:
        """The picture, and what else is seen."""
        image = specs.BoundedArray((*self.world.pixels, 1), np.uint8, 0, 1, name="image")
        spec: dict[str, specs.Array] = {"image": image}
        if self.model.robot:
            spec["proprio"] = specs.Array((4 * self.model.robot,), np.float32, name="proprio")
        if self.goal:
            spec["goal"] = specs.Array((2 * len(self._aims),), np.float32, name="goal")
            if self.goal_image:
                spec["goal_image"] = image.replace(name="goal_image")
        return spec

    @property
    def action_spec(self) -> specs.BoundedArray:
        """The speed of each joint, ``[A]`` in [-1, 1]; one number that does nothing where there is no robot."""
        return specs.BoundedArray((max(len(self.model.gain), 1),), np.float32, -1.0, 1.0, name="action")

    @property
    def proprio_names(self) -> tuple[str, ...]:
        """What each number of ``proprio`` is, such as ``aleg:cos``."""
        return tuple(f"{name}:{of}" for name in self.model.names[: self.model.robot] for of in ("x", "y", "cos", "sin"))

    @property
    def full_state_names(self) -> tuple[str, ...]:
        """What each number of ``full_state`` is, such as ``object0:angle``."""
        return tuple(f"{name}:{of}" for name in self.model.names for of in ("x", "y", "angle"))

    def full_state(self, state: BoxesState) -> Float[Array, "S"]:
        """Return the true place of all bodies: of each x, y [m] of its centre of mass and its angle [rad]."""
        x, y, angle = self._start.places(state.motion.q, state.knobs)
        return jnp.stack([x, y, angle], axis=1).reshape(-1)

    def bodies(self, state: BoxesState) -> dict[str, Float[Array, "2"]]:
        """Return x and y [m] of each body's centre of mass, by its name."""
        x, y, _ = self._start.places(state.motion.q, state.knobs)
        return {name: jnp.stack([x[number], y[number]]) for number, name in enumerate(self.model.names)}

    def knobs(self, state: BoxesState) -> Knobs:
        """Return the physics of the running episode, batched as ``state`` is."""
        return state.knobs

    def reset(self, key: PRNGKey) -> tuple[BoxesState, TimeStep]:
        """Draw a first state."""
        knobs_key, shape_key, place_key, goal_key = jax.random.split(key, 4)
        knobs = fixed(self.physics) if self.ranges is None else draw(knobs_key, self.physics, self.ranges)
        disc = jax.random.bernoulli(shape_key, 0.5, (len(self.model.names),)) * jnp.float32(self.model.maybe_circle)
        motion = self._start.draw(place_key, knobs)
        goal = self._draw_goal(goal_key, motion, knobs, disc) if self.goal else None
        state = BoxesState(motion, knobs, disc, goal)
        return state, restart(self._observe(state))

    def _draw_goal(self, key: PRNGKey, motion: Motion, knobs: Knobs, disc: Array) -> Goal:
        """Return a goal that the world itself comes to rest at."""
        still = jnp.zeros(len(self.model.gain))
        fall = lambda _, there: self._advance(there, still, knobs, disc)
        there = jax.lax.fori_loop(0, _SETTLE, fall, self._start.draw(key, knobs))
        position = self._aim(there, knobs)
        away = jnp.abs(position - self._aim(motion, knobs)).mean()
        return Goal(position, self._bits(there.q, knobs, disc)[..., None], away)

    def _aim(self, motion: Motion, knobs: Knobs) -> Float[Array, "G"]:
        """Return where the bodies are that the goal is about."""
        x, y, _ = self._scaled(motion, knobs)
        return jnp.stack([x, y], axis=1)[self._aims].reshape(-1)

    def _scaled(self, motion: Motion, knobs: Knobs) -> tuple[Array, Array, Array]:
        """Return x and y of all bodies, the room from -1 to 1, and their angles."""
        x, y, angle = self._start.places(motion.q, knobs)
        return 2 * x / self._room[0] - 1, 2 * y / self._room[1] - 1, angle

    def step(self, state: BoxesState, action: Float[Array, "A"]) -> tuple[BoxesState, TimeStep]:
        """Let the joints turn at ``action`` ``[A]`` for 0.1 s."""
        command = jnp.clip(action[: len(self.model.gain)], -1.0, 1.0)
        motion = self._advance(state.motion, command, state.knobs, state.disc)
        goal, reward, reached = state.goal, jnp.float32(0), jnp.bool_(False)
        if goal is not None:
            away = jnp.abs(goal.position - self._aim(motion, state.knobs)).mean()
            reached = away < NEAR
            dense = -away if self.goal == "body" else 10 * (goal.distance - away) - 0.05
            reward, goal = dense + reached, goal._replace(distance=away)
        state = state._replace(motion=motion, goal=goal)
        step_type = jnp.where(reached, LAST, MID).astype(jnp.int32)
        discount = jnp.where(reached, 0.0, 1.0).astype(jnp.float32)
        return state, TimeStep(step_type, reward.astype(jnp.float32), discount, self._observe(state))

    def _observe(self, state: BoxesState) -> dict[str, Array]:
        seen = {"image": self._bits(state.motion.q, state.knobs, state.disc)[..., None]}
        robot = self.model.robot
        if robot:
            x, y, angle = self._scaled(state.motion, state.knobs)
            parts = jnp.stack([x, y, jnp.cos(angle), jnp.sin(angle)], axis=1)
            seen["proprio"] = parts[:robot].reshape(-1)
        if state.goal is not None:
            seen["goal"] = state.goal.position
            if self.goal_image:
                seen["goal_image"] = state.goal.image
        return seen

    def render(self, state: BoxesState, height: int, width: int) -> UInt8[Array, "height width 3"]:
        """Return a picture of one state in colour, with smooth edges."""
        return render.colours(self.model, self._room, (height, width), state.motion.q, state.knobs, state.disc)


def _alike(bodies: tuple[Body, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the names of bodies that no picture tells apart, those together that are alike."""
    groups: dict[Body, list[str]] = {}
    for body in bodies:
        groups.setdefault(dataclasses.replace(body, name=""), []).append(body.name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


_NEEDS = {"body": "a robot", "object": "an object"}
_GOALS: dict[str, GoalKind] = {"body_goal": "body", "object_goal": "object", "object_body_goal": "object_body"}
_SWITCHES = ("goal_image", "random")


@dataclasses.dataclass(frozen=True)
class _Variant:
    goal: GoalKind | None = None
    goal_image: bool = False
    random: bool = False


def variant(world: str, words: str = "") -> Boxes:
    """Return the world with what stands behind the @ of ``boxes/urchin@body_goal+goal_image+random``.

    ``body_goal``, ``object_goal`` and ``object_body_goal`` say what the reward is about, ``goal_image`` adds the
    goal's picture to the observation, ``random`` draws all knobs of ``Ranges`` for each episode.

    Raises:
        UserError: when one of the words is none of these, or they do not fit together.
    """
    chosen = _Variant()
    for word in words.split("+") if words else ():
        if word in _GOALS:
            if chosen.goal:
                raise UserError(f"boxes/{world}@{words} has two goals, but there can be one")
            chosen = dataclasses.replace(chosen, goal=_GOALS[word])
        elif word in _SWITCHES:
            chosen = dataclasses.replace(chosen, **{word: True})
        else:
            raise unknown("variant of a box world", word, (*_GOALS, *_SWITCHES))
    if chosen.goal_image and not chosen.goal:
        raise UserError(f"boxes/{world}@{words} asks for a goal's picture, but names no goal such as body_goal")
    ranges = Ranges() if chosen.random else None
    return Boxes(world, goal=chosen.goal, goal_image=chosen.goal_image, ranges=ranges)
