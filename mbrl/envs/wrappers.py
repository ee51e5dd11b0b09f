"""Environments around environments: actions in [-1, 1], held actions, time limits."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array, Float, Int

from mbrl.core.errors import UserError
from mbrl.core.types import LAST, MID, PRNGKey, Spec, TimeStep, example
from mbrl.envs.base import Environment, EnvState


class Wrapper:
    """Passes everything on to the environment it holds; a wrapper overrides what it changes."""

    def __init__(self, env: Environment) -> None:
        self.env = env

    @property
    def observation_spec(self) -> Spec:
        """The held environment's."""
        return self.env.observation_spec

    @property
    def action_spec(self) -> specs.Array:
        """The held environment's."""
        return self.env.action_spec

    def reset(self, key: PRNGKey) -> tuple[EnvState, TimeStep]:
        """Draw a first state."""
        return self.env.reset(key)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """Apply ``action`` to ``state``."""
        return self.env.step(state, action)

    def inner(self, state: EnvState) -> EnvState:
        """Return the state of the held environment."""
        return state


def unwrap(env: Environment, state: EnvState) -> tuple[Environment, EnvState]:
    """Return the innermost environment and its state, batched as ``state`` is."""
    while isinstance(env, Wrapper):
        env, state = env.env, env.inner(state)
    return env, state


def innermost(env: Environment) -> Environment:
    """Return the environment that all wrappers hold."""
    while isinstance(env, Wrapper):
        env = env.env
    return env


def unit_spec(spec: specs.Array, name: str) -> specs.BoundedArray:
    """Return the spec of actions in [-1, 1] that stand for those of ``spec``.

    Raises:
        UserError: when ``spec`` has no finite bounds; ``name`` is the environment's in that sentence.
    """
    if not isinstance(spec, specs.BoundedArray) or not np.isfinite(spec.maximum - spec.minimum).all():
        raise UserError(f"the actions of environment {name!r} are {spec}, but must be discrete or bounded")
    return specs.BoundedArray(spec.shape, np.float32, -1.0, 1.0, name=spec.name)


def rescale(spec: specs.BoundedArray, action: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the action within ``spec``'s bounds for one in [-1, 1]; what lies outside is clipped first.

    The trailing axes are ``spec``'s shape; leading axes are free.
    """
    axes = (1,) * (action.ndim - len(spec.shape)) + spec.shape
    bounds = jnp.float32(spec.minimum), jnp.float32(spec.maximum)
    low, high = (jnp.broadcast_to(bound, spec.shape).reshape(axes) for bound in bounds)
    return (low + high) / 2 + (high - low) / 2 * jnp.clip(action, -1.0, 1.0)


class RescaleAction(Wrapper):
    """Takes actions in [-1, 1] where the environment wants other bounds.

    Args:
        env: an environment with a bounded, continuous action.
        name: what a complaint calls it.

    Raises:
        UserError: when its action has no finite bounds.
    """

    def __init__(self, env: Environment, name: str = "") -> None:
        super().__init__(env)
        self._spec = unit_spec(env.action_spec, name)
        self._bounds: Any = env.action_spec

    @property
    def action_spec(self) -> specs.BoundedArray:
        """Actions of the same shape in [-1, 1]."""
        return self._spec

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """Apply ``action``, clipped into [-1, 1] and rescaled."""
        return self.env.step(state, rescale(self._bounds, action))


class TimeLimitState(NamedTuple):
    """How long the episode has run."""

    env: Any  # the held environment's state
    elapsed: Int[Array, ""]  # steps since FIRST


class TimeLimit(Wrapper):
    """Truncates an episode after ``limit`` steps: LAST, with whatever discount that step has.

    So a step that terminates at the limit is still a termination. Inside ``ActionRepeat`` it counts every env step.
    """

    def __init__(self, env: Environment, limit: int) -> None:
        super().__init__(env)
        self.limit = limit

    def reset(self, key: PRNGKey) -> tuple[TimeLimitState, TimeStep]:
        """Draw a first state."""
        state, timestep = self.env.reset(key)
        return TimeLimitState(state, jnp.int32(0)), timestep

    def step(self, state: TimeLimitState, action: Array) -> tuple[TimeLimitState, TimeStep]:
        """Apply ``action`` to ``state``."""
        env, timestep = self.env.step(state.env, action)
        elapsed = state.elapsed + 1
        step_type = jnp.where(elapsed >= self.limit, LAST, timestep.step_type).astype(jnp.int32)
        return TimeLimitState(env, elapsed), timestep._replace(step_type=step_type)

    def inner(self, state: TimeLimitState) -> EnvState:
        """Return the state of the held environment."""
        return state.env


class ActionRepeat(Wrapper):
    """Holds each action for ``repeat`` env steps, or until LAST; rewards add up and discounts multiply."""

    def __init__(self, env: Environment, repeat: int) -> None:
        super().__init__(env)
        self.repeat = repeat

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """Apply ``action`` to ``state`` ``repeat`` times."""

        def hold(carry: tuple[EnvState, TimeStep], _: None) -> tuple[tuple[EnvState, TimeStep], None]:
            state, so_far = carry
            env, timestep = self.env.step(state, action)
            timestep = timestep._replace(
                reward=so_far.reward + timestep.reward, discount=so_far.discount * timestep.discount
            )
            over = so_far.last()
            return jax.tree.map(lambda old, new: jnp.where(over, old, new), carry, (env, timestep)), None

        start = TimeStep(jnp.int32(MID), jnp.float32(0), jnp.float32(1), example(self.observation_spec))
        return jax.lax.scan(hold, (state, start), length=self.repeat)[0]
