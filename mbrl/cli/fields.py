"""Checks the fields of a YAML file that is no config: each refusal is one sentence that names the place."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from mbrl.cli import parsing
from mbrl.core.errors import UserError, unknown


def check_keys(place: str, tree: Mapping[Any, Any], known: Collection[str]) -> None:
    """Refuse a key that is not known."""
    for key in tree:
        if key not in known:
            raise UserError(f"{place}: {unknown('key', str(key), known)}")


def mapping(place: str, value: Any) -> Mapping[Any, Any]:
    """Return a mapping that is not empty."""
    if not isinstance(value, dict) or not value:
        raise UserError(f"{place} {_given(value)}, but must be a mapping that holds something")
    return value


def text(place: str, value: Any) -> str:
    """Return text on one line, not empty."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place} {_given(value)}, but must be text")
    return " ".join(value.split())


def whole(place: str, value: Any, more: str = "") -> int:
    """Return a whole number of at least 1, perhaps written as ``count`` reads it; ``more`` ends the sentence."""
    found = count(value) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise UserError(f"{place} {_given(value)}, but must be a whole number of at least 1{more}")
    return found


def number(place: str, value: Any) -> float:
    """Return a finite number; YAML takes 1e-4 for text."""
    try:
        if isinstance(value, bool | dict | list | None) or not math.isfinite(found := float(value)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{place} {_given(value)}, but must be a number") from None
    return found


def _given(value: Any) -> str:
    return "is missing" if value is None else f"is {parsing.short(str(value))}"


def count(word: str) -> int | None:
    """Return a whole number written as `100000`, `1e5`, `100k` or `0.1M`; None where it is none."""
    plain = word.strip().lower().replace("_", "").replace(",", "")
    factor = {"k": 1_000, "m": 1_000_000}.get(plain[-1:], 1)
    try:
        number = float(plain[:-1] if factor > 1 else plain) * factor
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number == int(number) else None


def choice(place: str, value: Any, known: Collection[str]) -> Any:
    """Return one of some words."""
    if value not in known:
        raise UserError(f"{place} {_given(value)}, but must be one of {', '.join(known)}")
    return value
