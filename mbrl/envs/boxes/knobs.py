"""The knobs of physics: what may differ from episode to episode without compiling anything again."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core.errors import UserError
from mbrl.core.types import PRNGKey

_POSITIVE = ("density", "size")
_ANY = ("gravity", "wind")  # a body may be pulled either way


@dataclasses.dataclass(frozen=True)
class Physics:
    """One value of every knob; the defaults are the world as boxLCD has it."""

    gravity: float = 9.81
    """m / s^2, downwards."""
    wind: float = 0.0
    """m / s^2 to the right, for a body of the density it is defined with; a denser one is moved less."""
    friction: float = 1.0
    """times that of every body and wall."""
    density: float = 1.0
    """times that of every body; motors stay as strong as they are."""
    restitution: float = 1.0
    """times that of every body, at most to 1; does nothing where nothing bounces."""
    size: float = 1.0
    """times every length of every body; the room stays as it is, and each body must fit into it by itself."""


@dataclasses.dataclass(frozen=True)
class Ranges:
    """From where to where each knob is drawn, evenly, for each episode; None leaves it as ``Physics`` has it."""

    gravity: tuple[float, float] | None = (5.0, 15.0)
    """m / s^2."""
    wind: tuple[float, float] | None = (-2.0, 2.0)
    """m / s^2."""
    friction: tuple[float, float] | None = (0.25, 2.0)
    """a factor."""
    density: tuple[float, float] | None = (0.5, 2.0)
    """a factor."""
    restitution: tuple[float, float] | None = (0.25, 1.2)
    """a factor."""
    size: tuple[float, float] | None = (0.75, 1.25)
    """a factor."""


class Knobs(NamedTuple):
    """The knobs of the running episode, each ``[*N]``; ``Physics`` says what they mean."""

    gravity: Float[Array, "*N"]
    wind: Float[Array, "*N"]
    friction: Float[Array, "*N"]
    density: Float[Array, "*N"]
    restitution: Float[Array, "*N"]
    size: Float[Array, "*N"]


def check(physics: Physics, ranges: Ranges | None) -> None:
    """Check what the knobs are set to, or drawn from.

    Raises:
        UserError: no world has such a knob, or a range ends before it begins.
    """
    for name, value in dataclasses.asdict(physics).items():
        _check_value(f"physics.{name}", name, value)
    for name, bounds in dataclasses.asdict(ranges).items() if ranges else ():
        for value in bounds or ():
            _check_value(f"an end of ranges.{name}", name, value)
        if bounds and not bounds[0] <= bounds[1]:
            raise UserError(f"ranges.{name} is from {bounds[0]} to {bounds[1]}, but must begin with the smaller one")


def check_size(physics: Physics, ranges: Ranges | None, most: float) -> None:
    """Check that no body is made too large for its room; several may still have no room beside each other.

    Raises:
        UserError: ``size`` is, or may be drawn, above ``most``.
    """
    drawn = ranges.size if ranges else None
    label, size = ("an end of ranges.size", drawn[1]) if drawn else ("physics.size", physics.size)
    if size > most:
        limit = math.floor(most * 100) / 100
        raise UserError(
            f"{label} is {size}, but must be at most {limit:g} for each body to fit into this room by itself")


def _check_value(label: str, name: str, value: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"{label} is {value}, but must be finite")
    if name in _POSITIVE and value <= 0:
        raise UserError(f"{label} is {value}, but must be above 0")
    if name not in _ANY and value < 0:
        raise UserError(f"{label} is {value}, but must be at least 0")


def fixed(physics: Physics) -> Knobs:
    """Return the knobs as arrays."""
    return Knobs(**{name: jnp.float32(value) for name, value in dataclasses.asdict(physics).items()})


def draw(key: PRNGKey, physics: Physics, ranges: Ranges) -> Knobs:
    """Return the knobs of an episode."""
    keys = jax.random.split(key, len(Knobs._fields))
    knobs = fixed(physics)._asdict()
    for name, key in zip(Knobs._fields, keys, strict=True):
        bounds = getattr(ranges, name)
        if bounds is not None:
            knobs[name] = jax.random.uniform(key, (), jnp.float32, *bounds)
    return Knobs(**knobs)
