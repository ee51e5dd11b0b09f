"""Size presets: DreamerV3's and TD-MPC2's published ones, and a `nano` of each for CPUs and tests.

Source: danijar/dreamerv3 `configs.yaml`. With 24 observations, 6 actions and the agent's heads the vector models
have 0.64, 9.74, 21.8, 38.6, 86.6, 154 and 345 million parameters. TD-MPC2's are those of its paper's table 8, in
nicklashansen/tdmpc2 `tdmpc2/common/__init__.py`; a size is named after the millions of parameters its largest task has.
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

TDSize: TypeAlias = Literal["nano", "1m", "5m", "19m", "48m", "317m"]


class TDWidths(NamedTuple):
    """What a size of TD-MPC2 decides."""

    latent: int  # width of the latent state
    units: int  # of the hidden layers of dynamics, heads, policy and critics
    encoder: int  # of the encoder's hidden layers
    layers: int  # of the encoder, the one that makes the latent among them
    critics: int
    depth: int  # unit of channels in convolutions


TD_SIZES: dict[str, TDWidths] = {
    "nano": TDWidths(64, 64, 64, 2, 2, 4),
    "1m": TDWidths(128, 384, 256, 2, 2, 8),
    "5m": TDWidths(512, 512, 256, 2, 5, 16),
    "19m": TDWidths(768, 1024, 1024, 3, 5, 16),
    "48m": TDWidths(768, 1792, 1792, 4, 5, 32),
    "317m": TDWidths(1376, 4096, 4096, 5, 8, 32),
}
