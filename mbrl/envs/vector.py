"""N environments that start over by themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mbrl.core.errors import UserError
from mbrl.core.types import LAST, Observation, PRNGKey, TimeStep
from mbrl.envs.base import Environment, EnvState
from mbrl.envs.trees import guard, select, strong


class VectorState(NamedTuple):
    """N running episodes and the first states that wait for the next ones."""

    env: EnvState  # [N, ...]
    observation: Observation  # [N, ...] the newest, always finite
    over: Bool[Array, "N"]  # the newest step was LAST
    firsts: tuple[EnvState, TimeStep]  # [P, ...] first states, each used at most once
    used: Int[Array, ""]  # how many of them are spent
    faults: Int[Array, ""]  # steps so far that were not finite
    key: PRNGKey


class VectorEnv:
    """N copies of an environment with dm_env's automatic reset, to be vmapped, scanned and donated.

    The step after LAST ignores its action and returns FIRST. Drawing a first state in every step would cost as much
    as the physics, so a pool of them is drawn at once and refilled when it runs short; none is ever used twice. A
    step whose observation, reward or discount is not finite is cut by ``guard`` and counted in ``state.faults``.

    Args:
        env: one environment, without batch axis.
        num_envs: N.
        pool: P, how many first states are drawn at once; by default 2N, and at least 32.

    Raises:
        UserError: when ``num_envs`` is below 1 or ``pool`` below ``num_envs``.
    """

    def __init__(self, env: Environment, num_envs: int, pool: int | None = None) -> None:
        self.env = env
        self.observation_spec, self.action_spec = env.observation_spec, env.action_spec
        self.num_envs = num_envs
        self.pool = max(2 * num_envs, 32) if pool is None else pool
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}, but must be at least 1")
        if self.pool < num_envs:
            raise UserError(f"the pool of first states is {pool}, but must be at least num_envs, {num_envs}")

    def reset(self, key: PRNGKey) -> tuple[VectorState, TimeStep]:
        """Start N episodes; jit this, so that no two leaves share a buffer and the state can be donated."""
        firsts, key = self._draw(key)
        env, timestep = jax.tree.map(lambda leaf: leaf[: self.num_envs], firsts)
        timestep, broken = guard(timestep, jax.tree.map(jnp.zeros_like, timestep.observation))
        state = VectorState(
            env=env,
            observation=timestep.observation,
            over=timestep.last(),
            firsts=firsts,
            used=jnp.int32(self.num_envs),
            faults=broken.sum(dtype=jnp.int32),
            key=key,
        )
        return state, timestep

    def step(self, state: VectorState, action: Array) -> tuple[VectorState, TimeStep]:
        """Step N environments with actions ``[N, ...]``, or start them over where the last step was LAST."""
        over = state.over
        state, fresh = self._spend(state, over)
        stepped = strong(jax.vmap(self.env.step)(state.env, action))
        env, timestep = select(over, fresh, stepped)
        timestep, broken = guard(timestep, state.observation)
        state = state._replace(
            env=env,
            observation=timestep.observation,
            over=timestep.last(),
            faults=state.faults + broken.sum(dtype=jnp.int32),
        )
        return state, timestep

    def step_through(
        self, state: VectorState, action: Array, cut: Bool[Array, "N"]
    ) -> tuple[VectorState, TimeStep, Observation]:
        """Step N environments, and start over at once, not one step later, where an episode ends.

        For learners that know no step between two episodes.

        Args:
            state: of ``reset`` or of this method; ``step`` is not to be mixed with it.
            action: ``[N, ...]``.
            cut: where the episode is truncated even if the environment would go on.

        Returns:
            the state; the step just reached, whose observation is the terminal one where it is LAST; and the
            observation that the next action answers, a first one there.
        """
        reached = strong(jax.vmap(self.env.step)(state.env, action))
        timestep, broken = guard(reached[1], state.observation)
        timestep = timestep._replace(step_type=jnp.where(cut, LAST, timestep.step_type).astype(jnp.int32))
        over = timestep.last()
        state, (env, first) = self._spend(state, over)
        first, spoilt = guard(first, timestep.observation)
        env, observation = select(over, (env, first.observation), (reached[0], timestep.observation))
        faults = state.faults + broken.sum(dtype=jnp.int32) + (over & spoilt).sum(dtype=jnp.int32)
        state = state._replace(env=env, observation=observation, over=jnp.zeros_like(over), faults=faults)
        return state, timestep, observation

    def _draw(self, key: PRNGKey) -> tuple[tuple[EnvState, TimeStep], PRNGKey]:
        """Draw a pool of first states."""
        key, draw = jax.random.split(key)
        return strong(jax.vmap(self.env.reset)(jax.random.split(draw, self.pool))), key

    def _spend(self, state: VectorState, over: Bool[Array, "N"]) -> tuple[VectorState, tuple[EnvState, TimeStep]]:
        """Return the state without the first states that are needed where ``over`` holds, and these ``[N, ...]``."""
        need = over.sum(dtype=jnp.int32)
        firsts, used, key = self._refill(state, need)
        slot = used + jnp.cumsum(over) - 1
        fresh = jax.tree.map(lambda leaf: leaf[slot], firsts)
        return state._replace(firsts=firsts, used=used + need, key=key), fresh

    def _refill(
        self, state: VectorState, need: Int[Array, ""]
    ) -> tuple[tuple[EnvState, TimeStep], Int[Array, ""], PRNGKey]:
        """Draw a new pool where the old one holds too few first states for those that need one now.

        A loop that runs once or not at all, where a ``cond`` would do: under ``vmap`` (many seeds at once) a ``cond``
        computes both branches in every step, a loop only when some seed needs it.
        """

        def short(carry: tuple[Any, Int[Array, ""], PRNGKey]) -> Bool[Array, ""]:
            return carry[1] + need > self.pool

        def draw(carry: tuple[Any, Int[Array, ""], PRNGKey]) -> tuple[Any, Int[Array, ""], PRNGKey]:
            firsts, key = self._draw(carry[2])
            return firsts, jnp.int32(0), key

        return jax.lax.while_loop(short, draw, (state.firsts, state.used, state.key))
