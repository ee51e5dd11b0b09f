"""The types that pass through the doors of the house.

Axis letters, here and everywhere: T time, B batch, H horizon, N environments, A action, K candidates.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import dm_env
import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

PRNGKey: TypeAlias = Key[Array, ""]
Scalar: TypeAlias = Float[Array, ""]
Observation: TypeAlias = Array | dict[str, Array]
Spec: TypeAlias = specs.Array | dict[str, specs.Array]
Params: TypeAlias = PyTree
Metrics: TypeAlias = dict[str, Array]

FIRST = int(dm_env.StepType.FIRST)
MID = int(dm_env.StepType.MID)
LAST = int(dm_env.StepType.LAST)

# The key under which an observation that is a plain array goes where a dict is expected.
STATE = "state"


class TimeStep(NamedTuple):
    """What an environment says, with dm_env's meaning, for any leading axes ``*N``.

    ``reward`` and ``discount`` are those of the transition that led here; at FIRST they are 0 and 1.
    LAST with discount 0 is a termination, LAST with discount 1 a truncation.
    """

    step_type: Int[Array, "*N"]
    reward: Float[Array, "*N"]
    discount: Float[Array, "*N"]
    observation: Observation

    def first(self) -> Bool[Array, "*N"]:
        """Whether this step begins an episode, ``[*N]``."""
        return self.step_type == FIRST

    def last(self) -> Bool[Array, "*N"]:
        """Whether this step ends an episode, ``[*N]``."""
        return self.step_type == LAST


class Sequence(NamedTuple):
    """Stored experience, time major.

    ``action[t]`` is the action taken *after* seeing ``timestep[t]``; what it brought stands in ``timestep[t + 1]``.
    At LAST it is the action the automatic reset ignored. ``context[t]`` is what the agent stored of its
    latent state after seeing ``timestep[t]``, so that a world model can start in mid-episode.
    """

    timestep: TimeStep  # [T, B, ...]
    action: Float[Array, "*T A"]
    context: PyTree  # [T, B, ...]


def restart(observation: Observation) -> TimeStep:
    """Return the unbatched FIRST step of an episode: reward 0, discount 1."""
    return TimeStep(jnp.int32(FIRST), jnp.float32(0), jnp.float32(1), observation)


def as_dict(observation: Any) -> dict[str, Any]:
    """Return an observation (or its spec) as a dict; a plain array stands under ``"state"``."""
    return observation if isinstance(observation, dict) else {STATE: observation}


def action_dim(spec: specs.Array) -> int:
    """Return A, the length of the action vector agents use: one-hot where the spec is discrete."""
    if isinstance(spec, specs.DiscreteArray):
        return int(spec.num_values)
    return int(np.prod(spec.shape, dtype=int))


def to_env_action(spec: specs.Array, action: Float[Array, "*N A"]) -> Array:
    """Return what the environment takes for an agent's action vector: an index ``[*N]`` or ``[*N, *shape]``."""
    if isinstance(spec, specs.DiscreteArray):
        return jnp.argmax(action, axis=-1).astype(jnp.int32)
    return action.reshape(action.shape[:-1] + tuple(spec.shape))


def is_image(leaf: Any, axes: int = 0) -> bool:
    """Return whether a spec, or an array with that many more leading axes, is of images: uint8 ``[H, W, C]``."""
    return leaf.dtype == np.uint8 and len(leaf.shape) == axes + 3


def image_top(spec: specs.Array) -> int:
    """Return the largest value of an image's spec: 1 says that it is binary, 255 that it holds colours."""
    return 1 if np.max(getattr(spec, "maximum", 255)) <= 1 else 255


def example(spec: Spec) -> Observation:
    """Return zeros of a spec's shape and dtype, a dict for a dict."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec)
