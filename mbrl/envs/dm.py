"""dm_env, both ways: their environments behind our door, and ours behind theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dm_env
import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Int

from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID, Observation, PRNGKey, Spec, TimeStep, example
from mbrl.envs.base import Environment
from mbrl.envs.trees import guard
from mbrl.envs.wrappers import rescale, unit_spec


class HostEnv(NamedTuple):
    """A registry entry for environments that run in Python: ``ENVS["mine/arm"] = HostEnv(MyArm)``."""

    constructor: Callable[[int], dm_env.Environment]  # called with a seed


class HostState(NamedTuple):
    """What the device knows of N environments that live in Python."""

    observation: Observation  # [N, ...] the newest, always finite
    over: Bool[Array, "N"]  # the newest step was LAST
    faults: Int[Array, ""]  # steps so far that were not finite
    steps: Int[Array, ""]  # vector steps so far
    key: PRNGKey


class HostVectorEnv:
    """N dm_env environments in Python behind the door of ``VectorEnvironment``, by an ordered callback.

    It can be jitted and scanned, but not vmapped, and one state at a time is running. Observations become float32
    (uint8 stays), scalars vectors of length 1. A state that was saved by another process finds no environments here:
    they are built anew, and the episodes that were running are truncated.

    Args:
        constructor: makes one environment from a seed.
        num_envs: N.
        action_repeat: env steps each action is held.
        time_limit: env steps after which an episode is truncated.
        name: what a complaint calls it.

    Raises:
        UserError: when ``num_envs`` is below 1, an action has no finite bounds or observations are nested.
    """

    def __init__(
        self,
        constructor: Callable[[int], dm_env.Environment],
        num_envs: int,
        action_repeat: int = 1,
        time_limit: int = 1000,
        name: str = "",
    ) -> None:
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}, but must be at least 1")
        self.num_envs = num_envs
        self._constructor, self._repeat, self._limit = constructor, action_repeat, time_limit
        model = constructor(0)
        self._host_spec: Any = model.action_spec()
        self.observation_spec = _device_spec(model.observation_spec(), name)
        self.action_spec = self._device_action_spec(name)
        model.close()
        # What runs in Python cannot be in the state: this is the one place where something changes in place.
        self._envs: list[dm_env.Environment] = []
        self._elapsed = np.zeros(num_envs, int)

    def _device_action_spec(self, name: str) -> specs.Array:
        if isinstance(self._host_spec, specs.DiscreteArray):
            return specs.DiscreteArray(self._host_spec.num_values, np.int32, name=self._host_spec.name)
        return unit_spec(self._host_spec, name)

    def reset(self, key: PRNGKey) -> tuple[HostState, TimeStep]:
        """Build N environments, seeded from ``key``, and start their episodes."""
        steps = jnp.int32(0)
        timestep = io_callback(self._host_reset, self._shapes(), jax.random.key_data(key), steps, ordered=True)
        timestep, broken = guard(timestep, jax.tree.map(jnp.zeros_like, timestep.observation))
        faults = broken.sum(dtype=jnp.int32)
        return HostState(timestep.observation, timestep.last(), faults, steps, key), timestep

    def step(self, state: HostState, action: Array) -> tuple[HostState, TimeStep]:
        """Step N environments with actions ``[N, ...]``, or start them over where the last step was LAST."""
        if not isinstance(self._host_spec, specs.DiscreteArray):
            action = rescale(self._host_spec, action)
        steps = state.steps + 1
        entropy = jax.random.key_data(state.key), steps
        timestep = io_callback(
            self._host_step, self._shapes(), *entropy, action, state.over, state.observation, ordered=True
        )
        timestep, broken = guard(timestep, state.observation)
        faults = state.faults + broken.sum(dtype=jnp.int32)
        return HostState(timestep.observation, timestep.last(), faults, steps, state.key), timestep

    def _shapes(self) -> TimeStep:
        """Return what the callbacks promise, ``[N, ...]``."""
        one = TimeStep(jnp.int32(0), jnp.float32(0), jnp.float32(0), example(self.observation_spec))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((self.num_envs, *leaf.shape), leaf.dtype), one)

    def _host_reset(self, key: Any, steps: Any) -> TimeStep:
        self._build(key, steps)
        return _stack([self._first(i) for i in range(self.num_envs)])

    def _host_step(self, key: Any, steps: Any, action: Any, over: Any, observation: Any) -> TimeStep:
        lost = not self._envs
        if lost:
            self._build(key, steps)
        action, over = np.asarray(action), np.asarray(over)
        rows = []
        for i in range(self.num_envs):
            if over[i]:
                rows.append(self._first(i))
            elif lost:
                kept = jax.tree.map(lambda leaf: np.asarray(leaf)[i], observation)
                rows.append(_row(LAST, 0.0, 1.0, kept))
            else:
                rows.append(self._advance(i, action[i]))
        return _stack(rows)

    def _build(self, key: Any, steps: Any) -> None:
        for env in self._envs:
            env.close()
        entropy = [*np.asarray(key).ravel().tolist(), int(steps)]
        seeds = np.random.SeedSequence(entropy).generate_state(self.num_envs)
        self._envs[:] = [self._constructor(int(seed)) for seed in seeds]

    def _first(self, i: int) -> TimeStep:
        self._elapsed[i] = 0
        return _row(FIRST, 0.0, 1.0, _cast(self._envs[i].reset().observation))

    def _advance(self, i: int, action: Any) -> TimeStep:
        reward, discount = 0.0, 1.0
        action = np.asarray(action, self._host_spec.dtype)
        if isinstance(self._host_spec, specs.BoundedArray):
            # Rescaling in float32 may end a hair outside of float64 bounds.
            action = np.clip(action, self._host_spec.minimum, self._host_spec.maximum).astype(self._host_spec.dtype)
        for _ in range(self._repeat):
            timestep = self._envs[i].step(action)
            self._elapsed[i] += 1
            reward += 0.0 if timestep.reward is None else float(timestep.reward)
            discount *= 1.0 if timestep.discount is None else float(timestep.discount)
            over = timestep.last() or self._elapsed[i] >= self._limit
            if over:
                break
        return _row(LAST if over else MID, reward, discount, _cast(timestep.observation))


def _device_spec(spec: Any, name: str) -> Spec:
    """Return the spec of what ``_cast`` makes of observations."""
    if isinstance(spec, Mapping):
        return {key: _device_leaf(leaf, name) for key, leaf in spec.items()}
    return _device_leaf(spec, name)


def _device_leaf(spec: Any, name: str) -> specs.Array:
    if not isinstance(spec, specs.Array):
        kind = type(spec).__name__
        raise UserError(f"environment {name!r} observes a {kind}, but must observe one array or a flat dict of arrays")
    shape, dtype = spec.shape or (1,), _dtype(spec.dtype)
    if isinstance(spec, specs.BoundedArray) and dtype == np.uint8:  # whether an image is binary is told by its bounds
        return specs.BoundedArray(shape, dtype, spec.minimum, spec.maximum, name=spec.name)
    return specs.Array(shape, dtype, name=spec.name)


def _dtype(dtype: Any) -> type[np.generic]:
    return np.uint8 if dtype == np.uint8 else np.float32


def _cast(observation: Any) -> Any:
    """Return an observation as float32 (uint8 stays), at least one-dimensional."""
    if isinstance(observation, Mapping):
        return {key: _cast(leaf) for key, leaf in observation.items()}
    array = np.atleast_1d(np.asarray(observation))
    return array.astype(_dtype(array.dtype))


def _row(step_type: int, reward: float, discount: float, observation: Any) -> TimeStep:
    return TimeStep._make((np.int32(step_type), np.float32(reward), np.float32(discount), observation))


def _stack(rows: list[TimeStep]) -> TimeStep:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


class DmEnv(dm_env.Environment):
    """One of our environments as a ``dm_env.Environment`` in NumPy; as dm_env asks, it changes in place."""

    def __init__(self, env: Environment, seed: int) -> None:
        self._env = env
        self._reset, self._step = jax.jit(env.reset), jax.jit(env.step)
        self._key = jax.random.key(seed)
        self._state: Any = None

    def observation_spec(self) -> Spec:
        """The environment's."""
        return self._env.observation_spec

    def action_spec(self) -> specs.Array:
        """The environment's."""
        return self._env.action_spec

    def reset(self) -> dm_env.TimeStep:
        """Start a new episode."""
        self._key, key = jax.random.split(self._key)
        self._state, timestep = self._reset(key)
        return dm_env.restart(jax.tree.map(np.asarray, timestep.observation))

    def step(self, action: Any) -> dm_env.TimeStep:
        """Apply ``action``, or start a new episode on a fresh environment and after LAST."""
        if self._state is None:
            return self.reset()
        self._state, timestep = self._step(self._state, jnp.asarray(action, self._env.action_spec.dtype))
        if timestep.last():
            self._state = None
        observation = jax.tree.map(np.asarray, timestep.observation)
        step_type = dm_env.StepType(int(timestep.step_type))
        return dm_env.TimeStep(step_type, float(timestep.reward), float(timestep.discount), observation)


def to_dm_env(env: Environment, seed: int) -> dm_env.Environment:
    """Hand out one of our environments as a ``dm_env.Environment``; the same seed gives the same episodes."""
    return DmEnv(env, seed)
