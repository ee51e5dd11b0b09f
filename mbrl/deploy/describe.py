"""What goes into a policy and what comes out, for people and programs that do not know this package."""

from __future__ import annotations

from typing import Any

import numpy as np
from dm_env import specs

from mbrl.core.types import Spec, is_image


def observation(spec: Spec, lead: list[Any]) -> dict[str, Any]:
    """Return a spec for JSON, behind the axes ``lead``; a dict of observations has its names under `entries`."""
    if isinstance(spec, dict):
        return {"entries": {name: _seen(leaf, lead) for name, leaf in sorted(spec.items())}}
    return _seen(spec, lead)


def action(spec: specs.Array, lead: list[Any]) -> dict[str, Any]:
    """Return the action's spec, in the environment's own units, for JSON."""
    if isinstance(spec, specs.DiscreteArray):
        choices = int(spec.num_values)
        return {"shape": lead, "dtype": "int32", "minimum": 0, "maximum": choices - 1,
                "meaning": f"which of {choices} choices, counted from 0"}
    return {"shape": [*lead, *spec.shape], "dtype": "float32", **_bounds(spec),
            "meaning": "in the environment's own units, within these bounds"}


def _seen(spec: Any, lead: list[Any]) -> dict[str, Any]:
    picture = "a picture: height, width, colours"
    meaning = picture if is_image(spec) else "as the environment says it, in its own units"
    return {"shape": [*lead, *spec.shape], "dtype": np.dtype(spec.dtype).name, **_bounds(spec), "meaning": meaning}


def _bounds(spec: Any) -> dict[str, Any]:
    """Return the bounds of a spec where it has finite ones: numbers, or lists with one for each number."""
    if not isinstance(spec, specs.BoundedArray):
        return {}
    low, high = np.asarray(spec.minimum), np.asarray(spec.maximum)
    finite = np.isfinite(low).all() and np.isfinite(high).all()
    return {"minimum": low.tolist(), "maximum": high.tolist()} if finite else {}
