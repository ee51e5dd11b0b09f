"""The MuJoCo Playground's DM-Control suite, which the extra ``mbrl[playground]`` installs."""

from __future__ import annotations

import importlib.util
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from mbrl.core.errors import UserError, unknown
from mbrl.envs.physics import PhysicsEnv, build, load

NAMES = (
    "AcrobotSwingup",
    "AcrobotSwingupSparse",
    "BallInCup",
    "CartpoleBalance",
    "CartpoleBalanceSparse",
    "CartpoleSwingup",
    "CartpoleSwingupSparse",
    "CheetahRun",
    "FingerSpin",
    "FingerTurnEasy",
    "FingerTurnHard",
    "FishSwim",
    "HopperHop",
    "HopperStand",
    "HumanoidRun",
    "HumanoidStand",
    "HumanoidWalk",
    "PendulumSwingup",
    "PointMass",
    "ReacherEasy",
    "ReacherHard",
    "SwimmerSwimmer6",
    "WalkerRun",
    "WalkerStand",
    "WalkerWalk",
)


class PlaygroundEnv(PhysicsEnv):
    """A task of the DM-Control suite on MJX; a state's MuJoCo data is ``state.data``.

    One env step is one control step of the task. Published DM-Control results hold each action for two of them.

    Args:
        name: one of ``NAMES``.

    Raises:
        UserError: when there is no such task, or the package is missing.
    """

    def __init__(self, name: str) -> None:
        if name not in NAMES:
            raise unknown("DM-Control task", name, NAMES)
        if importlib.util.find_spec("mujoco_playground") is None:
            raise UserError(f'environment \'dmc/{name}\' needs the MuJoCo Playground: pip install "mbrl[playground]"')
        suite = load("mujoco_playground").dm_control_suite
        # Its own choice, warp, is some thirty times slower on a CPU.
        super().__init__(build(lambda: suite.load(name, config_overrides={"impl": "jax"})))

    def outcome(self, state: Any) -> tuple[Array, Array]:
        """Return the reward and whether the episode terminated, which none of these tasks does.

        Here ``done`` says that the physics broke; as a reward that is not finite, ``VectorEnv`` counts it.
        """
        return jnp.where(state.done > 0, jnp.nan, state.reward), jnp.bool_(False)
