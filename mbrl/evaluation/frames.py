"""What predicted frames are worth: open-loop predictions of image observations, frame by frame.

Plain NumPy over a recording [T, N] and the open-loop frames of its ``Diagnosis``, window by window as in ``model.py``.
Beside the world model stand two predictors that learn nothing of the dynamics: copying the last frame seen, and linear
regression.

Values are shares of the observation's range (a colour's 0..255 and a binary image's 0..1 become 0..1), and predictions
are clipped to it. Bits are per dimension, that is per pixel and channel:

- **binary images**: the Bernoulli cross-entropy of the predicted probability p, which is clipped to [1e-4, 1 - 1e-4].
  The model's p is taken at its word. The baselines' frames are no probabilities; they become some by sigmoid(a + b x)
  with the two numbers that cost the fewest bits, in hindsight, at each horizon (for a copy: how often what is on stays
  on, and what is off comes on), which favours them.
- **colours**: the discretised logistic of Salimans et al. 2017 (PixelCNN++, equation 2) around the prediction, mixed
  with the uniform distribution over the 256 values: most pixels are a background that is met exactly, and what moves
  over it is no tail of a logistic. The scale and the share of the mixture are fitted, in hindsight, for each predictor
  and each horizon: a prediction is judged by its mean alone, and two numbers for a million of pixels are no advantage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real, UInt8
from scipy.optimize import minimize
from scipy.special import expit

from mbrl.core.types import image_top, is_image
from mbrl.evaluation import folds
from mbrl.evaluation.model import until_border
from mbrl.evaluation.positions import Positions, PositionScore, distances, make_readers

CLIP = 1e-4  # probabilities of binary images keep this distance from 0 and 1
_SMALL = 32  # below as many pixels a side, similarity is measured in smaller windows
_FITTED = 1 << 13  # pixels that the logistic's scale and the uniform share are fitted on, at most
_LEVELS = 1000  # in which values in 0..1 are counted where probabilities are fitted to them
_STEEPEST = 60.0  # of a logit over the values' deviation, and of its value at their mean
_SCALES, _SHARES = (1 / 16, 256.0), (1e-6, 1.0)  # between which they lie; the scale in steps of the 256 values


class Recorded(NamedTuple):
    """An image observation of a recording, and what belongs to it."""

    truth: UInt8[np.ndarray, "T N H W C"]
    predicted: Real[np.ndarray, "T N H W C"]  # open loop, in the observation's own units
    action: Float[np.ndarray, "T N A"]
    first: Bool[np.ndarray, "T N"]
    top: int  # the largest value: 1 of a binary image, 255 of colours


class Curve(NamedTuple):
    """How good predicted frames are k = 1..H steps after the context; NaN where no window counts."""

    bits: Float[np.ndarray, "H"]  # per pixel and channel
    mse: Float[np.ndarray, "H"]  # of values in 0..1
    ssim: Float[np.ndarray, "H"]  # structural similarity, 1 of equal frames


class FrameScore(NamedTuple):
    """What there is to say of the open-loop frames."""

    curves: dict[str, Curve]  # of "model", "copy" and "linear"
    windows: Int[np.ndarray, "H"]  # how many had not met an episode border yet
    error: Float[np.ndarray, "H W"]  # the model's mean square error in each window, 0 where it does not count
    positions: PositionScore | None


def image_tops(spec: Mapping[str, Any]) -> dict[str, int]:
    """Return the names of the images among observation specs, and the largest value of each: 1 says binary."""
    return {name: image_top(leaf) for name, leaf in spec.items() if is_image(leaf)}


def assess_frames(recorded: Recorded, context: int, horizon: int, positions: Positions | None = None) -> FrameScore:
    """Judge open-loop frames k = 1..``horizon`` steps after the ``context`` that the model has seen.

    The linear baseline predicts, by ridge regression, the change of a frame's first 128 principal components since the
    last frame seen, from the last two frames and the actions in between; it is fitted on the one half of the
    environments and judged on the other (see ``folds``). At most one step's frames are floats at a time.

    Args:
        recorded: truth and prediction; T is a multiple of ``context + horizon``.
        context: steps of each window that the model has seen, at least 1.
        horizon: steps after it.
        positions: where bodies truly were, if that is known.
    """
    length = context + horizon
    ahead = until_border(recorded.first, context, length)
    parts, begins = folds.halves(recorded.truth, recorded.first, length)
    far = None if positions is None else _make_far(recorded, parts, positions, length)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    distance: dict[str, list[np.ndarray]] = {}
    error = np.zeros(ahead.shape, np.float32)
    for k in range(1, horizon + 1):
        counted, step = ahead[k - 1], context - 1 + k
        guesses = {
            "model": folds.at(recorded.predicted, step, length),
            "copy": folds.at(recorded.truth, context - 1, length),
            "linear": _linear(recorded, parts, begins, (context, length), k),
        }
        guesses = {name: _shares(guess, recorded.top) for name, guess in guesses.items()}
        real = _shares(folds.at(recorded.truth, step, length), recorded.top)
        for name, guess in guesses.items():
            rows.setdefault(name, []).append(_score(guess, real, counted, recorded.top, honest=name == "model"))
        error[k - 1] = np.where(counted, _squares(guesses["model"], real), 0)
        if far is not None:
            for name, guess in (guesses | {"floor": real}).items():
                distance.setdefault(name, []).append(far(guess, counted, step))
    curves = {name: Curve(*np.array(scores).T) for name, scores in rows.items()}
    found = {name: np.stack(x) for name, x in distance.items()}
    where = None if positions is None else PositionScore(positions.bodies, found)
    return FrameScore(curves, ahead.sum(axis=1), error, where)


def _make_far(
    recorded: Recorded, parts: tuple[folds.Half, folds.Half], positions: Positions, length: int
) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """Return ``(frames, which count, step of the window) -> distances [B]`` of what is read off frames to the truth."""
    readers = make_readers(recorded.truth, parts, positions)

    def far(frames: np.ndarray, counted: np.ndarray, step: int) -> np.ndarray:
        true, seconds = (folds.at(x, step, length)[counted] for x in (positions.values, parts[1].mine))
        return distances(readers, positions, seconds, frames[counted] * recorded.top, true)

    return far


def _linear(
    recorded: Recorded,
    parts: tuple[folds.Half, folds.Half],
    begins: Bool[np.ndarray, "T N"],
    window: tuple[int, int],
    k: int,
) -> Float[np.ndarray, "W H1 W1 C"]:
    """Return the linear baseline's frames, each fitted on the half that the window is not of.

    ``window`` is its context and its length.
    """
    (context, length), (T, N) = window, begins.shape
    time, environment = (x.ravel() for x in np.meshgrid(np.arange(context - 1, T, length), np.arange(N), indexing="ij"))
    seen = folds.at(recorded.truth, context - 1, length)
    frames = np.asarray(seen, np.float32).reshape(len(seen), -1)
    for half, other in (parts, parts[::-1]):
        judged = np.flatnonzero(other.mine[time, environment])
        moved = folds.ahead(half, begins, recorded.action, (time[judged], environment[judged]), k)
        frames[judged] += moved @ half.basis.directions.T * np.float32(half.basis.scale)
    return frames.reshape(seen.shape)


def _shares(frames: Real[np.ndarray, "W H1 W1 C"], top: int) -> Float[np.ndarray, "W H1 W1 C"]:
    """Return frames as shares of the range, clipped to it."""
    return np.clip(np.asarray(frames, np.float32) / np.float32(top), 0, 1)


def _squares(guess: Float[np.ndarray, "W ..."], real: Float[np.ndarray, "W ..."]) -> Float[np.ndarray, "W"]:
    return np.mean((guess - real) ** 2, axis=(1, 2, 3))


def _score(
    guess: Float[np.ndarray, "W H1 W1 C"],
    real: Float[np.ndarray, "W H1 W1 C"],
    counted: Bool[np.ndarray, "W"],
    top: int,
    *,
    honest: bool,
) -> tuple[float, float, float]:
    """Return bits, mean square error and similarity, NaN where nothing counts; of an honest one, p is what it says."""
    if not counted.any():
        return np.nan, np.nan, np.nan
    # Of all windows, whether they count or not: so it compiles once.
    alike = similarity(guess, real)[counted]
    guess, real = guess[counted], real[counted]
    if top == 1:
        bits = binary_bits(guess if honest else as_probability(guess, real), real)
    else:
        bits = colour_bits(guess * top, real * top)
    return bits, float(_squares(guess, real).mean()), float(alike.mean())


def binary_bits(p: Float[np.ndarray, "*N"], real: Float[np.ndarray, "*N"]) -> float:
    """Return the mean Bernoulli cross-entropy, in bits, of probabilities ``p`` (clipped) and what was, 0 or 1."""
    right = np.where(real > 0.5, p, 1 - p)
    return float(-np.log2(np.clip(right, CLIP, 1 - CLIP)).mean(dtype=np.float64))


def as_probability(x: Float[np.ndarray, "*N"], real: Float[np.ndarray, "*N"]) -> Float[np.ndarray, "*N"]:
    """Return sigmoid(a + b x), ``x`` in 0..1, with the a and b that cost the fewest bits; NaN if any ``x`` is."""
    if not np.isfinite(x).all():
        return np.full_like(x, np.nan)
    # Pixels of about the same value count together, so that a fit takes a moment.
    level = np.round(x * _LEVELS).astype(int).ravel()
    many, on = np.bincount(level), np.bincount(level, np.ravel(real))
    centre, spread = x.mean(dtype=np.float64), x.std(dtype=np.float64) or 1.0
    value = (np.arange(len(many)) / _LEVELS - centre) / spread

    def cost(fit: np.ndarray) -> tuple[float, np.ndarray]:
        logit = fit[0] + fit[1] * value
        excess = many * expit(logit) - on
        total = many @ np.logaddexp(0, logit) - on @ logit
        return total / level.size, np.array([excess.sum(), excess @ value]) / level.size

    bounds = [(-_STEEPEST, _STEEPEST)] * 2
    a, b = minimize(cost, (0.0, 1.0), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12}).x
    return expit(a + b * (x - centre) / spread)


def colour_bits(mean: Float[np.ndarray, "*N"], real: Float[np.ndarray, "*N"]) -> float:
    """Return the mean bits of values 0..255 by ``logistic_bits``, with the scale and the share that fit best."""
    mean, real = np.ravel(mean), np.ravel(real)
    if not np.isfinite(mean).all():
        return np.nan
    few = np.arange(real.size)
    if real.size > _FITTED:  # at random: an even stride may be that of a row, and see one column alone
        few = np.random.default_rng(0).integers(real.size, size=_FITTED)
    cost = lambda x: logistic_bits(mean[few], real[few], *_scale_and_share(x))
    start = np.array([np.log(1 + np.abs(real[few] - mean[few]).mean()), -2.0])
    best = minimize(cost, start, method="Nelder-Mead", options={"xatol": 0.02, "fatol": 1e-4, "maxiter": 150}).x
    return logistic_bits(mean, real, *_scale_and_share(best))


def _scale_and_share(x: np.ndarray) -> tuple[float, float]:
    scale, share = np.clip(np.exp(x[0]), *_SCALES), np.clip(expit(x[1]), *_SHARES)
    return float(scale), float(share)


def logistic_bits(
    mean: Float[np.ndarray, "S"], real: Float[np.ndarray, "S"], scale: float, share: float = 0.0
) -> float:
    """Return the mean bits of values, integers in 0..255, under a discretised logistic mixed with a uniform one.

    The logistic's mass of a value v is that between v - 1/2 and v + 1/2; of 0 and 255, all below and all above as well.

    Args:
        mean: of the logistic.
        real: the values.
        scale: of the logistic.
        share: of the uniform distribution over the 256 values.
    """
    high = np.where(real >= 255, np.inf, (real - mean + 0.5) / scale)
    low = np.where(real <= 0, -np.inf, (real - mean - 0.5) / scale)
    # By symmetry the mass is taken on the side where the difference of two sigmoids keeps its digits.
    flip = low > 0
    mass = expit(np.where(flip, -low, high)) - expit(np.where(flip, -high, low))
    return float(-np.log2((1 - share) * mass + share / 256).mean(dtype=np.float64))


def similarity(guess: Real[np.ndarray, "W H1 W1 C"], real: Real[np.ndarray, "W H1 W1 C"]) -> Float[np.ndarray, "W"]:
    """Return the structural similarity (Wang et al. 2004, with its constants) of images with values in 0..1.

    The mean over pixels and channels of what DeepMind's PIX computes, in Gaussian windows of 11 by 11 pixels with a
    standard deviation of 1.5; of images with a side below 32 pixels the windows are 7 by 7, so that a 16 by 16 image
    has 100 of them rather than 36, and of tiny ones the largest odd number that fits.
    """
    small = min(guess.shape[1:3])
    size = 11 if small >= _SMALL else min(7, small - (small + 1) % 2)
    return np.asarray(_similarity(jnp.asarray(guess, jnp.float32), jnp.asarray(real, jnp.float32), size))


@partial(jax.jit, static_argnums=2)
def _similarity(guess: Float[Array, "W H1 W1 C"], real: Float[Array, "W H1 W1 C"], size: int) -> Float[Array, "W"]:
    import dm_pix

    # The Gaussian window as a product of two matrices: on a CPU many times faster than PIX's own convolution.
    down, across = (_blur(side, size) for side in guess.shape[1:3])
    blur = lambda x: jnp.einsum("ih,jw,nhwc->nijc", down, across, x, precision="highest")
    return jnp.asarray(dm_pix.ssim(guess, real, filter_fn=blur))


def _blur(side: int, size: int) -> Float[np.ndarray, "I H1"]:
    """Return the matrix that slides a Gaussian window of ``size`` pixels over ``side`` pixels, inside of them."""
    window = np.exp(-0.5 * ((np.arange(size) - size // 2) / 1.5) ** 2)
    places = np.arange(side - size + 1)
    matrix = np.zeros((len(places), side), np.float32)
    for offset, weight in enumerate(window / window.sum()):
        matrix[places, places + offset] = weight
    return matrix
