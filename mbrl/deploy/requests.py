"""What a client sent, as arrays of the policy's shapes; everything else is refused in one sentence."""

from __future__ import annotations

import json
import math
import reprlib
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from dm_env import specs

from mbrl.core.types import Spec, as_dict, image_top, is_image
from mbrl.deploy.sessions import RefusedError

_LARGEST = float(np.finfo(np.float32).max)
_DEEPEST = 32  # axes of which a refusal still tells the shape


class Asked(NamedTuple):
    """An act request."""

    observation: Any  # arrays [...] of the spec's shapes, a dict where the spec is one
    reward: float
    discount: float
    first: bool


def largest_body(spec: Spec) -> int:
    """Return how many bytes of JSON an act request may be: no number needs more than 32."""
    leaves = as_dict(spec).values()
    return 16_384 + 32 * sum(math.prod(leaf.shape) for leaf in leaves)


def parse(body: bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        RefusedError: 400, it is none.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant) if body else {}
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not JSON (which has no NaN and no Infinity)") from None
    if not isinstance(value, dict):
        raise RefusedError(400, f"the body must be a JSON object, not {_short(value)}")
    return value


def seed_of(value: dict[str, Any]) -> int | None:
    """Return the seed that a new session asks for, if any.

    Raises:
        RefusedError: 422, it is no seed, or something else is asked for.
    """
    _refuse_others(value, {"seed"})
    seed = value.get("seed")
    if seed is not None and not (type(seed) is int and 0 <= seed < 2**32):
        raise RefusedError(422, f"seed is {_short(seed)}, but must be a whole number from 0 to {2**32 - 1}")
    return seed


def act_of(value: dict[str, Any], spec: Spec) -> Asked:
    """Return what a session asks.

    Raises:
        RefusedError: 422, something is missing, superfluous, of another shape, or not a finite number.
    """
    _refuse_others(value, {"observation", "reward", "discount", "first"})
    if "observation" not in value:
        raise RefusedError(422, "observation is missing")
    first = value.get("first", False)
    if not isinstance(first, bool):
        raise RefusedError(422, f"first is {_short(first)}, but must be true or false")
    reward, discount = _number(value.get("reward", 0.0), "reward"), _number(value.get("discount", 1.0), "discount")
    if not 0 <= discount <= 1:
        raise RefusedError(422, f"discount is {discount}, but must lie between 0 and 1")
    return Asked(_observation(value["observation"], spec), reward, discount, first)


def _observation(value: Any, spec: Spec) -> Any:
    if not isinstance(spec, dict):
        return _array(value, spec, "observation")
    if not isinstance(value, dict) or set(value) != set(spec):
        raise RefusedError(422, f"observation must be an object with {', '.join(sorted(spec))}")
    return {name: _array(value[name], leaf, f"observation.{name}") for name, leaf in spec.items()}


def _array(value: Any, spec: specs.Array, name: str) -> np.ndarray:
    """Return nested lists of numbers as an array of the spec."""
    shape = _shape(value)
    if shape is not None and shape != list(spec.shape):
        raise RefusedError(422, f"{name} has the shape {shape}, but must have {list(spec.shape)}")
    # NumPy sees numbers only: it would pad words to the longest of them, in gigabytes for a body that may be sent.
    array = np.asarray(None if shape is None else value)
    if array.dtype.kind not in "iuf":  # nor whole numbers beyond 64 bits, which become objects
        raise RefusedError(422, f"{name} must be nested lists of numbers of the shape {list(spec.shape)}")
    if np.dtype(spec.dtype).kind == "f":
        if not (np.abs(array.astype(np.float64)) <= _LARGEST).all():
            raise RefusedError(422, f"{name} holds a number that is not finite in 32 bits")
        return array.astype(np.float32)
    low, high = (0, image_top(spec)) if is_image(spec) else _range(spec)
    if array.dtype.kind == "f" or (array < low).any() or (array > high).any():
        raise RefusedError(422, f"{name} must hold whole numbers from {low} to {high}")
    return array.astype(spec.dtype)


def _shape(value: Any) -> list[int] | None:
    """Return the shape of nested lists of numbers, None where they are ragged, too deep, or hold anything else."""
    shape, level = [], [value]
    while (kinds := set(map(type, level))) == {list} and len(shape) < _DEEPEST:
        sizes = set(map(len, level))
        if len(sizes) > 1:
            return None
        shape += sizes
        level = list(chain.from_iterable(level))
    return shape if kinds <= {int, float, bool} else None


def _range(spec: specs.Array) -> tuple[int, int]:
    if np.dtype(spec.dtype).kind == "b":
        return 0, 1
    limits = np.iinfo(spec.dtype)
    return int(limits.min), int(limits.max)


def _number(value: Any, name: str) -> float:
    if type(value) not in {int, float} or not abs(value) <= _LARGEST:
        raise RefusedError(422, f"{name} is {_short(value)}, but must be a number that is finite in 32 bits")
    return float(value)


def _refuse_others(value: dict[str, Any], known: set[str]) -> None:
    others = sorted(set(value) - known)
    if others:
        raise RefusedError(422, f"unknown key {_short(others[0])}; known are {', '.join(sorted(known))}")


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _short(value: Any) -> str:
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 60
    return shortener.repr(value)
