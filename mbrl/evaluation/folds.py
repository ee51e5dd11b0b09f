"""A recording in two halves, so that what is fitted on one is judged on the other; frames in few numbers.

For what is fitted beside a world model, to hold its predicted frames against or to read them: it never sees what it is
judged on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped, UInt8

COMPONENTS = 128  # of a frame, at most
_FRAMES = 512  # from which the components are taken, at most
_PAIRS = 4096  # of (now, k steps later) that a prediction is fitted on, at most
_STRENGTHS = (1e-6, 1e-4, 1e-2, 1.0)  # of the ridge, times the number of samples


class Basis(NamedTuple):
    """The principal components of one half's frames; P numbers in a frame, D components."""

    mean: Float[np.ndarray, "P"]
    directions: Float[np.ndarray, "P D"]
    scale: float  # standard deviation along the first component


class Half(NamedTuple):
    """One half of a recording, and the whole recording seen in its basis."""

    mine: Bool[np.ndarray, "T N"]
    basis: Basis
    codes: Float[np.ndarray, "T N D"]  # every frame of the recording, in units of the basis's scale


def halves(
    frames: UInt8[np.ndarray, "T N *P"], begins: Bool[np.ndarray, "T N"], length: int
) -> tuple[tuple[Half, Half], Bool[np.ndarray, "T N"]]:
    """Return both halves of a recording, and where what went before has no part in what follows.

    The halves are the even and the odd environments, or of a single one the earlier and the later windows. Where there
    is one window of one environment only, the second half is empty.

    Args:
        frames: uint8, of any shape.
        begins: where an episode begins.
        length: of a window.
    """
    T, N = begins.shape
    windows = T // length
    time = np.arange(T) // length >= max(1, windows // 2)
    second = np.broadcast_to(np.arange(N) % 2 == 1, (T, N)) if N > 1 else time[:, None]
    begins = begins.copy()
    begins[0] = True
    begins[1:] |= second[1:] != second[:-1]
    flat = frames.reshape(T, N, -1)
    return (_half(flat, ~second), _half(flat, second)), begins


def _half(flat: UInt8[np.ndarray, "T N P"], mine: Bool[np.ndarray, "T N"]) -> Half:
    basis = components(flat[mine])
    codes = np.empty((*mine.shape, basis.directions.shape[1]), np.float32)
    for n in range(mine.shape[1]):  # one environment's frames as floats at a time
        codes[:, n] = encode(basis, flat[:, n])
    return Half(mine, basis, codes)


def components(frames: Real[np.ndarray, "S P"]) -> Basis:
    """Return the principal components of frames: at most ``COMPONENTS`` of them, from evenly many frames."""
    size = frames.shape[1]
    if not len(frames):
        return Basis(np.zeros(size, np.float32), np.zeros((size, 1), np.float32), 1.0)
    chosen = np.asarray(frames[evenly(len(frames), _FRAMES)], np.float32)
    mean = chosen.mean(axis=0)
    chosen -= mean
    # The components of S frames of P numbers are found from the smaller one of S x S and P x P products.
    tall = len(chosen) > size
    power, vectors = np.linalg.eigh((chosen.T @ chosen if tall else chosen @ chosen.T).astype(np.float64))
    kept = np.flatnonzero(power > 1e-6 * max(power[-1], 1e-12))[::-1][:COMPONENTS]
    if not kept.size:
        return Basis(mean, np.zeros((size, 1), np.float32), 1.0)
    vectors = vectors[:, kept] if tall else chosen.T @ (vectors[:, kept] / np.sqrt(power[kept]))
    return Basis(mean, vectors.astype(np.float32), float(np.sqrt(power[kept[0]] / len(chosen))))


def encode(basis: Basis, frames: Real[np.ndarray, "S P"]) -> Float[np.ndarray, "S D"]:
    """Return frames as their components, in units of the basis's scale."""
    return (np.asarray(frames, np.float32) - basis.mean) @ basis.directions / np.float32(basis.scale)


def ahead(
    half: Half,
    begins: Bool[np.ndarray, "T N"],
    action: Float[np.ndarray, "T N A"],
    start: tuple[Int[np.ndarray, "W"], Int[np.ndarray, "W"]],
    steps: int,
) -> Float[np.ndarray, "W D"]:
    """Predict by ridge regression how the components change within ``steps`` steps, fitted on the half alone.

    The regression sees the last two frames (the last one twice, where an episode begins with it) and all actions in
    between; its strength is chosen on the last quarter of the half.

    Args:
        half: what it is fitted on.
        begins: see ``halves``.
        action: of the recording.
        start: time and environment of the last frame that is seen, for each prediction.
        steps: k.

    Returns:
        the change, NaN where the half holds nothing to fit on.
    """
    pairs = _pairs(half.mine, begins, steps)
    if len(pairs[0]) < 4:
        return np.full((len(start[0]), half.codes.shape[-1]), np.nan, np.float32)
    x, wanted = (_features(half.codes, begins, action, *at, steps) for at in (pairs, start))
    y = half.codes[pairs[0] + steps, pairs[1]] - half.codes[pairs]
    return ridge(x, y, wanted)


def _pairs(
    mine: Bool[np.ndarray, "T N"], begins: Bool[np.ndarray, "T N"], steps: int
) -> tuple[Int[np.ndarray, "S"], Int[np.ndarray, "S"]]:
    """Return time and environment of frames that belong to the half and to whose episode ``steps`` more belong."""
    seen = np.cumsum(begins, axis=0)
    late, environment = np.nonzero((mine[:-steps] & (seen[steps:] == seen[:-steps])).T)[::-1]
    chosen = evenly(len(late), _PAIRS)
    return late[chosen], environment[chosen]


def _features(
    codes: Float[np.ndarray, "T N D"],
    begins: Bool[np.ndarray, "T N"],
    action: Float[np.ndarray, "T N A"],
    t: Int[np.ndarray, "S"],
    n: Int[np.ndarray, "S"],
    steps: int,
) -> Float[np.ndarray, "S F"]:
    before = np.where(begins[t, n], t, t - 1)
    done = action[t[:, None] + np.arange(steps), n[:, None]].reshape(len(t), steps * action.shape[-1])
    return np.concatenate([codes[t, n], codes[before, n], done], axis=1)


def ridge(
    x: Float[np.ndarray, "S F"], y: Float[np.ndarray, "S D"], wanted: Float[np.ndarray, "W F"]
) -> Float[np.ndarray, "W D"]:
    """Return what ridge regression of ``y`` on ``x`` says at ``wanted``; its strength is chosen on the last quarter."""
    cut = len(x) * 3 // 4
    trials = _solved(x[:cut], y[:cut], _STRENGTHS)
    errors = [np.mean((_apply(fit, x[cut:]) - y[cut:]) ** 2) for fit in trials]
    (best,) = _solved(x, y, (_STRENGTHS[int(np.argmin(errors))],))
    return _apply(best, wanted).astype(np.float32)


class _Fit(NamedTuple):
    x: Float[np.ndarray, "F"]
    y: Float[np.ndarray, "D"]
    weights: Float[np.ndarray, "F D"]


def _solved(x: np.ndarray, y: np.ndarray, strengths: tuple[float, ...]) -> list[_Fit]:
    centre_x, centre_y = x.mean(axis=0), y.mean(axis=0)
    x, y = x - centre_x, y - centre_y
    gram, moment, one = (x.T @ x).astype(np.float64), (x.T @ y).astype(np.float64), np.eye(x.shape[1])
    return [_Fit(centre_x, centre_y, np.linalg.solve(gram + len(x) * s * one, moment)) for s in strengths]


def _apply(fit: _Fit, x: np.ndarray) -> np.ndarray:
    return (x - fit.x) @ fit.weights + fit.y


def evenly(total: int, most: int) -> Int[np.ndarray, "S"]:
    """Return at most ``most`` of the numbers below ``total``, evenly spread."""
    return np.linspace(0, total - 1, min(total, most)).astype(int) if total else np.zeros(0, int)


def at(x: Shaped[np.ndarray, "T N *D"], step: int, length: int) -> Shaped[np.ndarray, "W *D"]:
    """Return the ``step``-th entry of each window, counted by time, then by environment."""
    return x[step::length].reshape(-1, *x.shape[2:])
