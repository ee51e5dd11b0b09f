"""What the adapters of the physics packages share: quiet imports, quiet tracing, strong types."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array, Float

from mbrl.core.types import LAST, MID, Observation, PRNGKey, Spec, TimeStep, restart
from mbrl.envs.trees import strong

# What Brax and MuJoCo say about themselves when they are imported, built or traced. Nothing else is silenced.
WARNINGS = (
    "Brax System, piplines and environments are not actively being maintained",
    "JAXopt is no longer maintained",
    r"Accessing `\w+` directly from `Data` is deprecated",
)
MUJOCO_NOTICE = "compiler attribute 'settotalmass' is deprecated"
PRINTED = ("Failed to import warp:", "Failed to import mujoco_warp:")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the notices in ``WARNINGS``, and let the physics promote ranks as it was written to."""
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        for message in WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def load(module: str) -> ModuleType:
    """Import a physics package without its notices; whatever else it prints is passed on."""
    printed = io.StringIO()
    with quiet(), contextlib.redirect_stdout(printed):
        loaded = importlib.import_module(module)
    sys.stdout.writelines(line for line in printed.getvalue().splitlines(True) if not line.startswith(PRINTED))
    return loaded


def build(make: Callable[[], Any]) -> Any:
    """Return what ``make`` makes of a MuJoCo model, without MuJoCo's notice on models older than itself.

    Left to itself, MuJoCo prints it and also leaves a ``MUJOCO_LOG.TXT`` in the current folder.
    """
    mujoco = load("mujoco")
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_pass_on)
    try:
        with quiet():
            return make()
    finally:
        mujoco.set_mju_user_warning(previous)


def mechanism(base: Any) -> Any:
    """Return the ``mujoco.MjModel`` of an innermost environment of Brax or the Playground, None of others."""
    owner = getattr(base, "sys", None) or getattr(base, "physics", None)
    return getattr(owner, "mj_model", None)


def _pass_on(message: str) -> None:
    if not message.startswith(MUJOCO_NOTICE):
        warnings.warn(message, stacklevel=2)


class PhysicsEnv:
    """A simulator's own environment behind our door.

    Brax and the Playground share one shape of environment: ``reset(key)`` and ``step(state, action)`` return a state
    that carries ``obs``, ``reward`` and ``done``. Their training wrappers are not used.

    Attributes:
        physics: the environment as its package made it.
        observation_spec: float32 arrays, one or a dict of them.
        action_spec: actions ``[A]`` in [-1, 1].
    """

    def __init__(self, physics: Any) -> None:
        self.physics = physics
        _, first = jax.eval_shape(self.reset, jax.random.key(0))
        self.observation_spec: Spec = jax.tree.map(lambda leaf: specs.Array(leaf.shape, np.float32), first.observation)
        self.action_spec = specs.BoundedArray((physics.action_size,), np.float32, -1.0, 1.0, name="action")

    def reset(self, key: PRNGKey) -> tuple[Any, TimeStep]:
        """Draw a first state."""
        with quiet():
            state = strong(self.physics.reset(key))
        return state, restart(_observation(state))

    def step(self, state: Any, action: Float[Array, "A"]) -> tuple[Any, TimeStep]:
        """Apply ``action`` ``[A]`` for one control step."""
        with quiet():
            state = strong(self.physics.step(state, action))
        reward, terminated = self.outcome(state)
        step_type = jnp.where(terminated, LAST, MID).astype(jnp.int32)
        discount = jnp.where(terminated, 0.0, 1.0).astype(jnp.float32)
        return state, TimeStep(step_type, reward.astype(jnp.float32), discount, _observation(state))

    def outcome(self, state: Any) -> tuple[Array, Array]:
        """Return the reward and whether the episode terminated; both are scalars."""
        return state.reward, state.done > 0


def _observation(state: Any) -> Observation:
    return dict(state.obs) if isinstance(state.obs, Mapping) else state.obs
