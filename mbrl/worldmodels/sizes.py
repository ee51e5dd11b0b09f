"""Size presets: DreamerV3's published ones, and a `nano` for CPUs and tests.

Source: danijar/dreamerv3 `configs.yaml`. With 24 observations, 6 actions and the agent's heads the vector models
have 0.64, 9.74, 21.8, 38.6, 86.6, 154 and 345 million parameters.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Size: TypeAlias = Literal["nano", "1m", "12m", "25m", "50m", "100m", "200m", "400m"]


class Widths(NamedTuple):
    """What a size decides."""

    deter: int  # deterministic state
    units: int  # every hidden layer, inside the dynamics and in the heads
    classes: int  # per categorical variable
    depth: int  # unit of channels in convolutions


SIZES: dict[str, Widths] = {
    "nano": Widths(128, 32, 4, 2),
    "1m": Widths(512, 64, 4, 4),
    "12m": Widths(2048, 256, 16, 16),
    "25m": Widths(3072, 384, 24, 24),
    "50m": Widths(4096, 512, 32, 32),
    "100m": Widths(6144, 768, 48, 48),
    "200m": Widths(8192, 1024, 64, 64),
    "400m": Widths(12288, 1536, 96, 96),
}
