"""What every run says of itself, whoever trains it: when, by which keys, and in which words."""

from __future__ import annotations

import time
import zlib
from collections import deque
from typing import Any, TypeAlias

import jax

from mbrl.core.types import PRNGKey
from mbrl.evaluation.rollout import Evaluation
from mbrl.runner.loggers import Values

# Seconds and env steps at the ends of the last stretches of a run.
Pace: TypeAlias = deque[tuple[float, int]]
# Stretches over which the speed is averaged.
_STRETCHES = 5


def evaluation_key(seed: int, step: int) -> PRNGKey:
    """Return the key of the evaluation after ``step`` env steps."""
    return jax.random.fold_in(named_key(seed, "evaluation"), step)


def named_key(seed: int, name: str) -> PRNGKey:
    """Return a key for one purpose, apart from the training's own, which are split from ``jax.random.key(seed)``."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def due(every: int, before: int, after: int) -> bool:
    """Whether a multiple of ``every`` lies in ``(before, after]``."""
    return after // every > before // every


def scores(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation's numbers, of several training seeds one each."""
    returns, lengths, terminated = jax.device_get(evaluation)
    return {
        "eval/return_mean": returns.mean(-1),
        "eval/return_std": returns.std(-1),
        "eval/length_mean": lengths.mean(-1),
        "eval/terminated": terminated.mean(-1),
    }


def start_pace(step: int) -> Pace:
    """Begin to measure the speed at ``step`` env steps."""
    return deque([(time.perf_counter(), step)], maxlen=_STRETCHES + 1)


def timed(pace: Pace, step: int, total: int, *, learning: bool = True) -> Values:
    """Note that a stretch has ended, and return the wall clock's figures, in seconds.

    Args:
        pace: is added to.
        step: env steps so far.
        total: env steps of the run.
        learning: whether it learns; collecting alone is too fast to tell how much time is left.
    """
    pace.append((time.perf_counter(), step))
    (first, begin), (last, end) = pace[0], pace[-1]
    speed = (end - begin) / max(last - first, 1e-9)
    left = max(total - step, 0) / speed if learning else None
    seconds = last - pace[-2][0]
    if not learning:
        pace.clear()
        pace.append((last, step))
    return {"time/epoch": seconds, "time/steps_per_second": speed, "time/left": left}
