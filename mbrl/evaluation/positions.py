"""Where bodies are in predicted frames: positions read off the pixels by a regression that saw true frames only.

The reader is kernel ridge regression, with a Gaussian kernel, from the principal components of a blurred frame to the
positions. Without the blur, frames in which a small body has moved by its own length are no more alike than any two;
half of the frames are blurred more than the others, for those of an unsure model are soft, and to be read like sharp
ones. It is fitted on one half of the recording's true frames and judged on the other (see ``folds``), so what it errs
by on true frames, its floor, stands beside what it says of predicted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Real, UInt8
from scipy.linalg import cho_factor, cho_solve
from scipy.ndimage import gaussian_filter

from mbrl.evaluation import folds

_SAMPLES = 2500  # true frames that a reader is fitted on, at most
_BLUR = 0.09  # standard deviation of the blur, times the shorter side of a frame
_SOFTER = 1.6  # times the blur, of every other frame that it is fitted on
_WIDTHS = (0.5, 1.0)  # of the Gaussian kernel, times the median distance of two frames
_STRENGTHS = (1e-5, 1e-3)  # of the ridge


class Positions(NamedTuple):
    """Where bodies truly were, as the environment knows it.

    A name is that of a body, a dot and that of a coordinate, ``"ball.x"``; without a dot, a body of one coordinate.
    """

    values: Real[np.ndarray, "T N K"]
    names: tuple[str, ...]  # K of them

    @property
    def owners(self) -> tuple[str, ...]:
        """The body that each coordinate is of, K of them."""
        return tuple(name.rpartition(".")[0] or name for name in self.names)

    @property
    def bodies(self) -> tuple[str, ...]:
        """The bodies, B of them, in the order of their first coordinates."""
        return tuple(dict.fromkeys(self.owners))


def ordered(positions: Positions, alike: Sequence[Sequence[str]]) -> Positions:
    """Return positions in which bodies that look alike have swapped places, so that their first coordinates ascend.

    No picture tells which of two equal balls is which; from left to right it does.

    Args:
        positions: of bodies with equally many coordinates each.
        alike: names of bodies, those together that look alike.
    """
    values, owners = positions.values.copy(), positions.owners
    for group in alike:
        columns = np.array([[k for k, owner in enumerate(owners) if owner == body] for body in group])  # [B, D]
        mine = positions.values[..., columns]
        order = np.argsort(mine[..., 0], axis=-1, kind="stable")[..., None]
        values[..., columns] = np.take_along_axis(mine, order, axis=-2)
    return positions._replace(values=values)


class PositionScore(NamedTuple):
    """Root mean square distance k = 1..H steps after the context, in the positions' own units; NaN where unknown."""

    bodies: tuple[str, ...]
    distance: dict[str, Float[np.ndarray, "H B"]]  # of "model", "copy", "linear", and "floor": read off true frames


class Reader(NamedTuple):
    """Reads K coordinates off frames."""

    basis: folds.Basis
    seen: Float[np.ndarray, "S D"]
    width: float
    weights: Float[np.ndarray, "S K"]
    mean: Float[np.ndarray, "K"]


def make_readers(
    truth: UInt8[np.ndarray, "T N H W C"], parts: tuple[folds.Half, folds.Half], positions: Positions
) -> tuple[Reader | None, Reader | None]:
    """Return a reader fitted on each half's true frames; None of a half that holds next to nothing."""
    first, second = (_fit(truth, half, positions) for half in parts)
    return first, second


def _fit(truth: UInt8[np.ndarray, "T N H W C"], half: folds.Half, positions: Positions) -> Reader | None:
    # Environment by environment, so that the last quarter, on which it is chosen, is another stretch of time.
    environment, time = np.nonzero(half.mine.T)
    chosen = folds.evenly(len(time), _SAMPLES)
    if len(chosen) < 8:
        return None
    at = time[chosen], environment[chosen]
    values, frames = np.asarray(positions.values[at], np.float64), _blurred(truth[at])
    frames[1::2] = _blurred(truth[at][1::2], _SOFTER)
    mean, cut = values.mean(axis=0), len(chosen) * 3 // 4
    basis = folds.components(frames)
    codes = folds.encode(basis, frames)
    usual = float(np.sqrt(np.median(_apart(codes[:256], codes[::-1][:256])))) or 1.0
    trials = []
    for width in (usual * factor for factor in _WIDTHS):
        here, there = _kernel(codes[:cut], codes[:cut], width), _kernel(codes[cut:], codes[:cut], width)
        for strength in _STRENGTHS:
            said = there @ _solve(here, values[:cut] - mean, strength) + mean
            trials.append((float(np.mean((said - values[cut:]) ** 2)), width, strength))
    _, width, strength = min(trials)
    return Reader(basis, codes, width, _solve(_kernel(codes, codes, width), values - mean, strength), mean)


def read(reader: Reader, frames: Real[np.ndarray, "S H W C"]) -> Float[np.ndarray, "S K"]:
    """Return the positions that a reader sees in frames, which are in the units of those it was fitted on."""
    codes = folds.encode(reader.basis, _blurred(frames))
    return _kernel(codes, reader.seen, reader.width) @ reader.weights + reader.mean


def _blurred(frames: Real[np.ndarray, "S H W C"], factor: float = 1.0) -> Float[np.ndarray, "S P"]:
    width = factor * _BLUR * min(frames.shape[1:3])
    return gaussian_filter(np.asarray(frames, np.float32), (0, width, width, 0), truncate=2.5).reshape(len(frames), -1)


def distances(
    readers: tuple[Reader | None, Reader | None],
    positions: Positions,
    seconds: Bool[np.ndarray, "W"],
    frames: Real[np.ndarray, "W H W1 C"],
    true: Real[np.ndarray, "W K"],
) -> Float[np.ndarray, "B"]:
    """Return for each body the root mean square distance of what is read off frames to where it truly was.

    Args:
        readers: of the first and of the second half.
        positions: whose names tell the bodies.
        seconds: which frames are of the second half; the first half's reader reads those, and the other way round.
        frames: W of them.
        true: where the bodies were.
    """
    said = np.full(true.shape, np.nan)
    for reader, theirs in zip(readers, (seconds, ~seconds), strict=True):
        if reader is not None and theirs.any():
            said[theirs] = read(reader, frames[theirs])
    square = (said - true) ** 2
    owners = np.array(positions.owners)
    totals = [square[:, owners == body].sum(axis=1) for body in positions.bodies]
    return np.array([np.sqrt(total.mean()) if total.size else np.nan for total in totals])


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return squared distances, ``[S, D]`` and ``[R, D]`` to ``[S, R]``."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)


def _kernel(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-_apart(a, b) / (2 * width**2))


def _solve(kernel: np.ndarray, values: np.ndarray, strength: float) -> np.ndarray:
    return cho_solve(cho_factor(kernel + strength * np.eye(len(kernel))), values)
