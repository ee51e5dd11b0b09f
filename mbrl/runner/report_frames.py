"""What the report of a run tells of image observations: predicted frames, and where bodies are in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mbrl.agents.base import Diagnosis
from mbrl.core.types import FIRST, Sequence, as_dict, is_image
from mbrl.evaluation import model as judge
from mbrl.evaluation.frames import FrameScore, Recorded, assess_frames, image_tops
from mbrl.evaluation.positions import Positions, PositionScore, ordered
from mbrl.runner.pictures import from_images, image_key
from mbrl.viz import figures, film, video
from mbrl.viz.report import Picture, Section

_BYTES = 1 << 28  # that the frames of a recording may take as floats; the model speaks of each of them twice
_PIXELS = 120  # height that small images are enlarged to
_NAMES = {"model": "world model", "copy": "copy of the last frame", "linear": "linear regression",
          "floor": "read off true frames"}


def extent(spec: Any, wanted: tuple[int, int], most: int, window: int) -> tuple[int, int]:
    """Return of how many environments how many steps are recorded, given the size of what they show.

    Images are recorded of more environments, as far as their frames have room: what is fitted beside the model, the
    linear regression and the reader of positions, learns from half of them, and episodes differ more than steps do.

    Args:
        spec: of the observations.
        wanted: environments, and steps of each, a multiple of ``window``.
        most: environments.
        window: steps that belong together; so many are recorded at least.
    """
    environments, steps = wanted
    pixels = sum(int(np.prod(leaf.shape)) for leaf in as_dict(spec).values() if is_image(leaf))
    if not pixels:
        return wanted
    frames = _BYTES // (4 * pixels)
    environments = max(environments, min(most, frames // steps))
    return environments, min(steps, max(1, frames // (environments * window)) * window)


def bodies(base: Any, state: Any) -> dict[str, Any] | None:
    """Return where the bodies of innermost environments ``[N]`` are, None where they do not say so.

    One says so by ``bodies(state) -> {"ball": [x, y], ...}``; what looks alike it names in ``alike``, a tuple of
    tuples of names.
    """
    return jax.vmap(base.bodies)(state) if hasattr(base, "bodies") else None


def _positions(found: Mapping[str, Any] | None, base: Any) -> Positions | None:
    """Return the bodies' positions, recorded as ``{"ball": [T, N, D]}``, coordinate by coordinate."""
    if not found:
        return None
    names = tuple(f"{body}.{i}" for body, where in found.items() for i in range(where.shape[-1]))
    positions = Positions(np.concatenate([np.asarray(where) for where in found.values()], axis=-1), names)
    return ordered(positions, getattr(base, "alike", ()))


def judge_frames(
    sequence: Sequence, diagnosis: Diagnosis, spec: Any, window: tuple[int, int], found: tuple[Any, Any]
) -> dict[str, FrameScore]:
    """Return what predicted frames are worth, by the images' names.

    Args:
        sequence: a recording [T, N], on the host.
        diagnosis: of it.
        spec: of the observations.
        window: context and horizon, see ``assess_frames``.
        found: the innermost environment, and what ``bodies`` said of its states, [T, N].
    """
    timestep: Any = sequence.timestep
    truth, shown = as_dict(timestep.observation), image_key(spec)
    first, action = timestep.step_type == FIRST, np.asarray(sequence.action)
    scores = {}
    for name, top in image_tops(as_dict(spec)).items():
        said = np.asarray(diagnosis.open_loop_observation[name])
        recorded = Recorded(np.asarray(truth[name]), said, action, first, top)
        # Bodies are where the first image shows them; another one, of a goal, say, shows them elsewhere.
        positions = _positions(found[1], found[0]) if name == shown else None
        scores[name] = assess_frames(recorded, *window, positions)
    return scores


def section(name: str, score: FrameScore, context: int) -> Section:
    """Return what is told of one image's open-loop frames."""
    bits, mse, ssim = ({_NAMES[who]: getattr(curve, what) for who, curve in score.curves.items()}
                       for what in ("bits", "mse", "ssim"))
    picture = figures.over_horizon({
        "bits per dimension (less is better)": bits,
        "mean square error (values in 0..1)": mse,
        "structural similarity (1: equal)": ssim,
    })
    pictures = [Picture(f"frames_{name}.png", picture, f"The frames of {name!r} over the horizon, beside copying the "
                        "last one and linear regression.")]
    if score.positions:
        pictures.append(_where(name, score.positions))
    return Section(
        f"Predicted frames: {name}",
        f"The model has seen the episode so far, at least {context} frames of it, and then only the actions. Linear "
        "regression sees the last two frames and the same actions, and was fitted on other environments than it is "
        "judged on, where there are several. Bits are per pixel and channel: "
        "of binary images the cross-entropy of the probability predicted, which for the two baselines is fitted in "
        "hindsight; of colours under a logistic around the prediction, mixed with a uniform share, both fitted to each "
        "predictor at each horizon. "
        f"{score.windows[0]} windows, of which {score.windows[-1]} last to the end.",
        _facts(score),
        tuple(pictures),
    )


def _facts(score: FrameScore) -> dict[str, str]:
    facts = {}
    for k in sorted({1, 15, len(score.windows)} & set(range(1, len(score.windows) + 1))):
        if score.windows[k - 1]:
            model, *others = (score.curves[who].bits[k - 1] for who in ("model", "copy", "linear"))
            beside = ", ".join(f"{who}: {x:.3g}" for who, x in zip(("copy", "linear"), others, strict=True))
            facts[f"bits, {k} ahead"] = f"{model:.3g} ({beside})"
            facts[f"similarity, {k} ahead"] = f"{score.curves['model'].ssim[k - 1]:.3g}"
    return facts


def _where(name: str, positions: PositionScore) -> Picture:
    panels = {
        f"{body}: distance to its true position": {_NAMES[who]: x[:, i] for who, x in positions.distance.items()}
        for i, body in enumerate(positions.bodies)
    }
    return Picture(
        f"positions_{name}.png", figures.over_horizon(panels),
        "Root mean square distance of each body, as a regression fitted on true frames reads it off predicted ones; "
        "what it errs by on true frames that it was not fitted on is the floor.",
    )


def dream(sequence: Sequence, diagnosis: Diagnosis, name: str, top: int, score: FrameScore, context: int) -> Section:
    """Show the typical window of an image: what came, what was imagined, and the error under each frame."""
    timestep: Any = sequence.timestep
    horizon = len(score.windows)
    ahead = judge.until_border(timestep.step_type == FIRST, context, context + horizon)
    start, env, steps = judge.median_window(score.error, ahead, timestep.reward.shape[1], context)
    if not steps:
        return Section("The dream", f"No episode went on after the {context} steps that the model sees.")
    cut = slice(start, start + context + steps)
    truth = as_dict(timestep.observation)[name][cut, env]
    said = np.asarray(diagnosis.open_loop_observation[name][cut, env])
    rows = (
        film.Row("real", from_images(truth, top, _PIXELS)),
        film.Row("dreamt", from_images(said, top, _PIXELS), image_errors(truth, said, top), blind=True),
    )
    moving = video.encode(film.moving(rows, context, " %"), ".gif", 10.0)
    return Section(
        "The dream",
        f"After {context} steps the model is blind and imagines what the recorded actions lead to. Shown is the window "
        "whose error is the median of all. Under each frame stands its root mean square error, of a range of 100 %.",
        pictures=(
            Picture("dream.png", film.strip(rows, context, " %"), f"Real above, dreamt below: {name!r}."),
            Picture("videos/dream.gif", moving, "The same, moving."),
        ),
    )


def image_errors(truth: np.ndarray, said: np.ndarray, top: int) -> np.ndarray:
    """Return the root mean square error of each frame ``[T, H, W, C]``, in percent of the range."""
    error = (np.asarray(said, np.float32) - truth) * (100 / top)
    return np.sqrt(np.mean(error**2, axis=(1, 2, 3)))
