"""Which environment, and how it is presented."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """The environment and the wrappers around it."""

    name: Annotated[str, tyro.conf.arg(aliases=("--env",))] = "brax/inverted_pendulum"
    """Which environment: `brax/hopper`, `brax/hopper@mjx`, `dmc/CartpoleSwingup`, `probe/cue`; see `mbrl list envs`."""
    action_repeat: int = 1
    """How many physics control steps each action is held; rewards add up, env steps count every one."""
    time_limit: int = 1000
    """Env steps after which an episode is truncated (the discount stays 1)."""
    pixels: int = 0
    """Height and width of a picture that is added to what is observed, as `image`; 0 for none."""
    state: bool = True
    """Beside pictures, observe what else the environment tells of its state; without it pictures are all."""
    camera: str = ""
    """Which of the MuJoCo model's cameras takes the picture; empty for the suite's usual one (`dmc/`) or one that
    sees the mechanism from the side and goes along with it (`brax/`)."""
