"""Our environments as Brax's training expects its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from mbrl.core.types import TimeStep, action_dim, to_env_action
from mbrl.envs.base import Environment
from mbrl.envs.physics import load
from mbrl.envs.vector import VectorEnv, VectorState


class TrainingEnv:
    """N environments as Brax's training wrappers leave them: batched, with a time limit, starting over by themselves.

    In place of Brax's wrappers, which replay the first state each environment began with: every episode has a first
    state of its own. As with Brax's, ``obs`` is already the next episode's first one where ``done`` is 1, and
    ``info["truncation"]`` is 1 where an episode was cut off rather than terminated. A step that is not finite cuts
    its episode off.

    Args:
        env: one environment, with a vector observation and actions in [-1, 1].
        num_envs: N.
        action_repeat: env steps each action is held by ``env``.
        time_limit: env steps after which ``info["steps"]`` cuts an episode off. Brax sets these counts to random
            numbers where it wants episodes to be out of step.

    Attributes:
        observation_size: length of an observation.
        action_size: A.
    """

    def __init__(self, env: Environment, num_envs: int, action_repeat: int, time_limit: int) -> None:
        self._vector = VectorEnv(env, num_envs)
        self._repeat, self._limit = action_repeat, time_limit
        spec: Any = env.observation_spec
        self.observation_size = int(spec.shape[0])
        self.action_size = action_dim(env.action_spec)

    def reset(self, rng: UInt32[Array, "N 2"]) -> Any:
        """Start N episodes and return Brax's ``State``; all randomness comes from the first of the keys."""
        vector, timestep = self._vector.reset(jax.random.wrap_key_data(rng)[0])
        zero = jnp.zeros(self._vector.num_envs)
        return load("brax.envs").State(
            pipeline_state=vector,
            obs=timestep.observation,
            reward=zero,
            done=zero,
            info=self._info(zero, timestep, {"sum_reward": zero, "length": zero}),
        )

    def step(self, state: Any, action: Float[Array, "N A"]) -> Any:
        """Step N environments and start over where an episode ended."""
        vector: VectorState = state.pipeline_state
        steps = state.info["steps"] + self._repeat
        chosen = to_env_action(self._vector.action_spec, action)
        vector, timestep, observation = self._vector.step_through(vector, chosen, steps >= self._limit)
        begun = 1 - state.info["episode_done"]
        so_far = state.info["episode_metrics"]
        episode = {
            "sum_reward": so_far["sum_reward"] * begun + timestep.reward,
            "length": so_far["length"] * begun + self._repeat,
        }
        return state.replace(
            pipeline_state=vector,
            obs=observation,
            reward=timestep.reward,
            done=timestep.last().astype(jnp.float32),
            info=state.info | self._info(jnp.where(timestep.last(), 0.0, steps), timestep, episode),
        )

    def _info(self, steps: Float[Array, "N"], timestep: TimeStep, episode: dict[str, Array]) -> dict[str, Any]:
        over = timestep.last()
        return {
            "steps": steps,
            "truncation": (over & (timestep.discount > 0)).astype(jnp.float32),
            "episode_done": over.astype(jnp.float32),
            "episode_metrics": episode,
        }
