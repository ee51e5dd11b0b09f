"""What the replay holds and what a batch from it looks like."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mbrl.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """The replay ring and the batches drawn from it."""

    capacity: int = 100_000
    """Agent steps kept, over all environments; the oldest are overwritten."""
    batch_size: int = 16
    """Sequences in a batch."""
    batch_length: int = 64
    """Trained steps in a sequence; one more is drawn before them as context."""
    recent_fraction: float = 0.125
    """Share of each batch that ends at the newest step instead of being drawn uniformly; at most one per environment,
    since two would be the same."""
    frames: Literal["device", "host"] = "device"
    """Whose memory holds the frames (uint8 of rank 3 or more) of observations: `host` leaves an accelerator's to the
    rest, and each batch then comes over the bus. No number of the training changes."""


def check_sizes(config: ReplayConfig, num_envs: int) -> None:
    """Check that the numbers fit each other.

    Args:
        config: the replay's config.
        num_envs: N, the environments that write into it side by side.

    Raises:
        UserError: a number is out of its range, the capacity is no multiple of ``num_envs``, or a sequence (with its
            context step) is longer than what is kept of one environment.
    """
    sizes = {f"replay.{name}": getattr(config, name) for name in ("capacity", "batch_size", "batch_length")}
    for name, size in (sizes | {"num_envs": num_envs}).items():
        if size < 1:
            raise UserError(f"{name} must be at least 1, not {size}")
    if not 0 <= config.recent_fraction <= 1:
        raise UserError(f"replay.recent_fraction must lie between 0 and 1, not be {config.recent_fraction}")
    rows, rest = divmod(config.capacity, num_envs)
    if rest:
        fitting = max(1, rows + (2 * rest > num_envs)) * num_envs
        raise UserError(
            f"replay.capacity {config.capacity} must be a multiple of num_envs {num_envs}; the nearest is {fitting}"
        )
    window = config.batch_length + 1
    if window > rows:
        raise UserError(
            f"replay.batch_length {config.batch_length} needs {window} steps of one environment but replay.capacity "
            f"{config.capacity} keeps {rows} of each of {num_envs}; a capacity of at least {window * num_envs}, or a "
            f"batch_length of at most {rows - 1}, would do"
        )
