"""The one pytree that is the run."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int, PyTree

from mbrl.core.types import PRNGKey, Sequence, TimeStep


class Collector(NamedTuple):
    """Where collection stands: the environments, what they said last, the agent's memory of it."""

    env: PyTree  # the vector environment's state, [N, ...]
    timestep: TimeStep  # [N, ...] not yet acted upon
    carry: PyTree  # [N, ...] the agent's memory
    returns: Float[Array, "N"]  # undiscounted return so far of the running episodes
    lengths: Int[Array, "N"]  # agent steps so far of the running episodes


class Faults(NamedTuple):
    """Non-finite numbers met so far, and the last batch that led to one."""

    updates: Int[Array, ""]  # updates skipped
    physics: Int[Array, ""]  # environment steps cut off
    batch: Sequence  # [T, B, ...] zeros until an update is skipped


class TrainState(NamedTuple):
    """Everything a run is; saving it saves the run, replay included."""

    agent: Any  # AgentState
    env: Collector
    replay: Any  # ReplayState
    step: Int[Array, ""]  # env steps (N * action_repeat per vector step)
    updates: Int[Array, ""]  # updates done, skipped ones included
    faults: Faults
    key: PRNGKey
