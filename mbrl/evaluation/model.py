"""What a world model is judged by: its predictions far ahead, its calibration, and what it promises its actor.

All of it is plain NumPy over a recording [T, N] and the model's ``Diagnosis`` of it. The recording is cut in time
into windows of ``context + horizon`` steps; in each, open-loop predictions have seen ``context`` steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from mbrl.agents.base import Agent, AgentState, Diagnosis
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, PRNGKey, Sequence, as_dict, is_image

CONSTANT = 1e-6  # a dimension that varies less than this is measured in its own units


class OpenLoop(NamedTuple):
    """Root mean square error k = 1..H steps after the context, in standard deviations of each dimension."""

    model: Float[np.ndarray, "H"]
    copy: Float[np.ndarray, "H"]  # repeating what was last seen instead
    windows: Int[np.ndarray, "H"]  # how many windows had not met an episode border yet; where 0, errors are NaN


class Calibration(NamedTuple):
    """Predictions beside what came, in bins K of the prediction."""

    predicted: Float[np.ndarray, "K"]  # mean of each bin that is not empty
    true: Float[np.ndarray, "K"]
    samples: Int[np.ndarray, "K"]
    mse: float  # of all samples; the Brier score where the truth is 0 or 1
    error: float  # expected calibration error: mean |predicted - true| of the bins, by their samples


class Gap(NamedTuple):
    """How far a predicted return is from the real one; a bias above 0 is a model or critic being exploited."""

    bias: float  # mean of predicted - real
    correlation: float  # Pearson's; NaN where one of the two is constant


class ReturnGap(NamedTuple):
    """Discounted returns of S steps of the recording."""

    real: Float[np.ndarray, "S"]
    imagined: Float[np.ndarray, "S"]
    value: Float[np.ndarray, "S"]
    share: Float[np.ndarray, "S"]  # weight that the critic's bootstrap has in ``real``
    imagined_gap: Gap
    value_gap: Gap


class Assessment(NamedTuple):
    """Everything the report says of a world model."""

    open_loop: dict[str, OpenLoop]  # by observation key; what images are judged by stands in ``frames``
    open_loop_reward: OpenLoop
    reward: Calibration  # filtered: the model has seen the observation the reward came with
    reward_ahead: Calibration  # open loop
    discount: Calibration
    discount_ahead: Calibration
    returns: ReturnGap


def make_diagnose(agent: Agent, context: int, horizon: int) -> Callable[[AgentState, PRNGKey, Sequence], Diagnosis]:
    """Return a jitted ``(agent_state, key, sequence [T, N]) -> Diagnosis [T, N]``, window after window.

    T is a multiple of ``context + horizon``; one window is in memory at a time. Every window starts from the
    contexts that were stored with it.
    """
    length = context + horizon

    def diagnose(agent_state: AgentState, key: PRNGKey, sequence: Sequence) -> Diagnosis:
        windows = jax.tree.map(lambda x: x.reshape(-1, length, *x.shape[1:]), sequence)
        keys = jax.random.split(key, len(windows.action))
        judged = jax.lax.map(lambda window: agent.diagnose(agent_state, window[0], window[1], context), (keys, windows))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), judged)

    return jax.jit(diagnose)


def assess(sequence: Sequence, diagnosis: Diagnosis, gamma: float, context: int, horizon: int) -> Assessment:
    """Judge a model by its diagnosis of a recording [T, N].

    Raises:
        UserError: if T is no multiple of ``context + horizon``, or there is no context.
    """
    timestep, said = jax.device_get((sequence.timestep, diagnosis))
    length = context + horizon
    if context < 1 or len(timestep.reward) % length:
        raise UserError(
            f"a recording of {len(timestep.reward)} steps cannot be cut into windows of {context} + {horizon} steps; "
            "give a context of at least 1 and a multiple of their sum"
        )
    first = timestep.step_type == FIRST
    ahead = until_border(first, context, length)
    edges = np.linspace(0, 1, 11)
    reward, discount = timestep.reward, timestep.discount
    far = lambda x: _behind(x, context, length)[..., 0][ahead]
    error = partial(open_loop_error, ahead=ahead, context=context)
    # A key that the model does not say anything of, such as a task's number, is not judged.
    truth = {k: v for k, v in as_dict(timestep.observation).items() if k in said.open_loop_observation}
    return Assessment(
        open_loop={k: error(v, said.open_loop_observation[k]) for k, v in truth.items() if not is_image(v, 2)},
        open_loop_reward=error(reward, said.open_loop_reward),
        # At FIRST, reward and discount say nothing.
        reward=calibrate(said.reward[~first], reward[~first]),
        reward_ahead=calibrate(far(said.open_loop_reward), far(reward)),
        discount=calibrate(said.discount[~first], discount[~first], edges),
        discount_ahead=calibrate(far(said.open_loop_discount), far(discount), edges),
        returns=return_gap(sequence, diagnosis, gamma),
    )


def until_border(first: Bool[np.ndarray, "T N"], context: int, length: int) -> Bool[np.ndarray, "H W"]:
    """Return for each window (W of them: by time, then by environment) whether step k is of the context's episode.

    A window counts until an episode begins after its context; from then on the truth is another episode's.
    """
    return ~np.logical_or.accumulate(_behind(first, context, length)[..., 0], axis=0)


def open_loop_error(
    truth: Shaped[np.ndarray, "T N *D"],
    predicted: Real[np.ndarray, "T N *D"],
    ahead: Bool[np.ndarray, "H W"],
    context: int,
) -> OpenLoop:
    """Return the open-loop error over the horizon beside that of copying the last state seen.

    The standard deviations that errors are measured in are those of the steps that count.

    Args:
        truth: what was observed.
        predicted: the model's open-loop prediction of it.
        ahead: which windows count k steps after the context, see ``until_border``.
        context: steps of each window that the model has seen.
    """
    length, windows = len(ahead) + context, ahead.sum(axis=1)
    real, model = (_behind(x, context, length) for x in (truth, predicted))
    copy = np.repeat(_behind(truth, context - 1, length)[:1], len(ahead), axis=0)
    errors = np.full((2, len(ahead)), np.nan)
    for row, guess in enumerate((model, copy)):
        total = _squares(guess, real, ahead).sum(axis=1)
        np.sqrt(total / np.maximum(windows, 1), out=errors[row], where=windows > 0)
    return OpenLoop(errors[0], errors[1], windows)


def typical_window(
    truth: Shaped[np.ndarray, "T N *D"],
    predicted: Real[np.ndarray, "T N *D"],
    ahead: Bool[np.ndarray, "H W"],
    context: int,
) -> tuple[int, int, int]:
    """Return the window whose open-loop error is the median of the longest: the honest one to show.

    Returns:
        where it begins in time, its environment, and how many steps after the context it counts.
    """
    length = len(ahead) + context
    real, model = (_behind(x, context, length) for x in (truth, predicted))
    return median_window(_squares(model, real, ahead), ahead, truth.shape[1], context)


def median_window(
    error: Float[np.ndarray, "H W"], ahead: Bool[np.ndarray, "H W"], environments: int, context: int
) -> tuple[int, int, int]:
    """Return, as ``typical_window`` does, the median by an error [H, W] that is 0 where a window does not count."""
    steps = ahead.sum(axis=0)
    longest = np.flatnonzero(steps == steps.max())
    total = error.sum(axis=0)[longest]
    window = int(longest[np.argsort(total, kind="stable")[len(longest) // 2]])
    return window // environments * (len(ahead) + context), window % environments, int(steps.max())


def calibrate(
    predicted: Real[np.ndarray, "S"], true: Real[np.ndarray, "S"], edges: Float[np.ndarray, "E"] | None = None
) -> Calibration:
    """Return what came, on average, where the model predicted about p, for each bin of p.

    Args:
        predicted: predictions.
        true: what came.
        edges: of the bins; by default ten bins with about as many samples each.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if not predicted.size:
        nothing = np.zeros(0)
        return Calibration(nothing, nothing, nothing.astype(int), np.nan, np.nan)
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, 11))) if edges is None else edges
    bins = np.digitize(predicted, edges[1:-1])
    samples = np.bincount(bins)
    full = samples > 0
    mean = lambda x: (np.bincount(bins, x) / np.maximum(samples, 1))[full]
    error = np.average(np.abs(mean(predicted) - mean(true)), weights=samples[full])
    return Calibration(
        mean(predicted), mean(true), samples[full], float(np.mean((predicted - true) ** 2)), float(error)
    )


def real_return(
    reward: Float[np.ndarray, "T N"],
    discount: Float[np.ndarray, "T N"],
    last: Bool[np.ndarray, "T N"],
    value: Float[np.ndarray, "T N"],
    gamma: float,
) -> tuple[Float[np.ndarray, "T N"], Float[np.ndarray, "T N"]]:
    """Return the discounted return G_t = r_{t+1} + gamma d_{t+1} G_{t+1} of what really came, and the critic's share.

    A termination (d = 0) ends the sum exactly. A truncation, and the end of the recording, do not: what would have
    come is unknown, and the critic's value stands for it, with the weight that the second result says (0 after a
    termination, gamma^k with k steps left until a truncation). At LAST, G is the critic's value alone.
    """
    total, share = np.array(value, np.float64), np.ones_like(value, np.float64)
    for t in reversed(range(len(reward) - 1)):
        going = gamma * discount[t + 1]
        total[t] = np.where(last[t], value[t], reward[t + 1] + going * total[t + 1])
        share[t] = np.where(last[t], 1, going * share[t + 1])
    return total, share


def return_gap(sequence: Sequence, diagnosis: Diagnosis, gamma: float, most: float = 0.5) -> ReturnGap:
    """Compare imagined returns and values with what really came.

    Steps count whose real return is at most ``most`` the critic's own word, and that do not end an episode.
    """
    timestep, said = jax.device_get((sequence.timestep, diagnosis))
    last = timestep.step_type == LAST
    total, share = real_return(timestep.reward, timestep.discount, last, said.value, gamma)
    counted = (share <= most) & ~last
    real, imagined, value = total[counted], said.imagined_return[counted], said.value[counted]
    return ReturnGap(real, imagined, value, share[counted], _gap(imagined, real), _gap(value, real))


def _behind(x: Shaped[np.ndarray, "T N *D"], context: int, length: int) -> Shaped[np.ndarray, "H W D"]:
    """Return what comes after the context of each window; W counts windows by time, then by environment."""
    windows = x.reshape(-1, length, x.shape[1], x[0, 0].size)[:, context:]
    return np.swapaxes(windows, 0, 1).reshape(length - context, -1, windows.shape[-1])


def _squares(
    guess: Real[np.ndarray, "H W D"], real: Real[np.ndarray, "H W D"], ahead: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W"]:
    """Return mean square errors in units of each dimension's variance, 0 where a step does not count."""
    std = np.asarray(real[ahead], np.float32).std(axis=0) if ahead.any() else np.ones(real.shape[-1], np.float32)
    error = (np.asarray(guess, np.float32) - real) / np.where(std > CONSTANT, std, 1)
    return np.where(ahead, np.mean(error**2, axis=-1), 0)


def _gap(predicted: Real[np.ndarray, "S"], real: Real[np.ndarray, "S"]) -> Gap:
    if not real.size:
        return Gap(np.nan, np.nan)
    varies = min(np.ptp(predicted), np.ptp(real)) > 0
    return Gap(float(np.mean(predicted - real)), float(np.corrcoef(predicted, real)[0, 1]) if varies else np.nan)
