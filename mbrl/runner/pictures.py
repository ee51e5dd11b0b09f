"""Observations, real and imagined, as pictures."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from mbrl.core.types import as_dict, is_image
from mbrl.envs import wrappers
from mbrl.envs.base import Environment, VectorEnvironment
from mbrl.envs.physics import mechanism
from mbrl.viz import draw, dream


def innermost(env: Environment | VectorEnvironment) -> Any:
    """Return the environment inside all wrappers, None where it lives in Python."""
    base: Any = getattr(env, "env", None) if isinstance(env, VectorEnvironment) else env
    return None if base is None else wrappers.innermost(base)


def seconds(base: Any) -> float | None:
    """Return how long one env step of an environment lasts, None where it does not say so (as ``dt``, in seconds)."""
    known = (getattr(owner, "dt", None) for owner in (base, getattr(base, "physics", None)))
    return next((float(dt) for dt in known if dt is not None), None)


def image_key(spec: Any) -> str | None:
    """Return the name of the first image among the observations of a spec, None where there is none."""
    return next((name for name, leaf in as_dict(spec).items() if is_image(leaf)), None)


def from_images(images: np.ndarray, top: int, size: int) -> draw.Frames:
    """Return images ``[T, H, W, C]`` with values up to ``top`` as pictures at least ``size`` pixels high."""
    shown = np.round(np.clip(np.nan_to_num(np.asarray(images, np.float32)) * (255 / top), 0, 255)).astype(np.uint8)
    if shown.shape[-1] != 3:
        shown = shown[..., :1].repeat(3, axis=-1)
    larger = max(1, -(-size // shown.shape[1]))
    return shown.repeat(larger, axis=1).repeat(larger, axis=2)


def from_vectors(base: Any, real: np.ndarray, said: list[np.ndarray], size: int = 160) -> list[draw.Frames]:
    """Return observations that are vectors as pictures, alike in scale: the real ones, then each of what was said.

    Drawn where the environment's pose can be told from an observation (``pose``), else as growing strips with a row for
    each dimension.

    Args:
        base: the innermost environment.
        real: ``[T, ...]`` as it was observed.
        said: of the same shape each.
        size: height in pixels.
    """
    model = mechanism(base)
    if model is None or not hasattr(base, "pose"):
        flat = [np.nan_to_num(np.asarray(x, float).reshape(len(x), -1)) for x in (real, *said)]
        return [dream.heat(x, flat[0].min(axis=0), flat[0].max(axis=0), size) for x in flat]
    poses = [np.asarray(base.pose(jax.numpy.asarray(x))) for x in (real, *said)]
    camera = draw.aim(model, poses[0], size, size * 3 // 2)
    return [draw.draw(model, q, camera, draw.ORANGE if i else draw.BLUE) for i, q in enumerate(poses)]
