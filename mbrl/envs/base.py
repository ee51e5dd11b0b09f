"""The environment's door: pure functions with dm_env's meaning of reward, discount and step type."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

from dm_env import specs
from jaxtyping import Array, PyTree

from mbrl.core.types import PRNGKey, Spec, TimeStep

EnvState: TypeAlias = PyTree


@runtime_checkable
class Environment(Protocol):
    """One environment, without batch axis; ``reset`` and ``step`` are pure and can be vmapped and scanned.

    A continuous ``action_spec`` is bounded; the registry's ``make`` rescales it to [-1, 1].
    Stepping after LAST is undefined: automatic reset is ``VectorEnv``'s business.
    """

    @property
    def observation_spec(self) -> Spec:
        """The spec of the observation, or a dict of specs."""
        ...

    @property
    def action_spec(self) -> specs.Array:
        """A ``BoundedArray`` (continuous) or a ``DiscreteArray``."""
        ...

    def reset(self, key: PRNGKey) -> tuple[EnvState, TimeStep]:
        """Draw a first state."""
        ...

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """Apply ``action`` (``action_spec``'s shape) to ``state``."""
        ...


@runtime_checkable
class VectorEnvironment(Protocol):
    """N environments that start over by themselves; the only thing collection and evaluation see.

    As in dm_env, the step after LAST ignores its action and returns the FIRST step of a new episode, from a
    first state that was never used before; the terminal observation is therefore kept, in its own step.
    """

    num_envs: int

    @property
    def observation_spec(self) -> Spec:
        """The spec of one environment's observation, or a dict of specs."""
        ...

    @property
    def action_spec(self) -> specs.Array:
        """The spec of one environment's action."""
        ...

    def reset(self, key: PRNGKey) -> tuple[Any, TimeStep]:
        """Start N episodes; every leaf of the time step is ``[N, ...]``."""
        ...

    def step(self, state: Any, action: Array) -> tuple[Any, TimeStep]:
        """Step N environments with actions ``[N, ...]``."""
        ...
