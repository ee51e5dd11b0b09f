"""A picture in the observation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array, Bool

from mbrl.core.errors import UserError
from mbrl.core.types import Observation, PRNGKey, Spec, TimeStep, as_dict, is_image
from mbrl.envs.base import Environment, EnvState
from mbrl.envs.render import make_render
from mbrl.envs.wrappers import Wrapper

IMAGE = "image"


class Pixels(Wrapper):
    """Adds a picture to the observation, under ``"image"``: uint8 ``[H, W, C]``.

    An observation that was one array stands under ``"state"`` beside it; a dict keeps its keys. It goes outside of
    ``ActionRepeat``: one picture for each step of the agent. A step whose hidden observation is not finite has a
    reward that is not finite either, so that ``VectorEnv`` still sees it.

    Args:
        env: an environment that can be drawn (``make_render``).
        size: height and width of the picture, pixels.
        state: whether the rest of the observation stays.
        camera: as for ``make_render``.

    Raises:
        UserError: as for ``make_render``, and when there is an ``"image"`` already.
    """

    def __init__(self, env: Environment, size: int, state: bool = True, camera: str | None = None) -> None:
        super().__init__(env)
        inner = as_dict(env.observation_spec)
        if IMAGE in inner:
            raise UserError(f"the environment observes {IMAGE!r} already, so it needs no pixels: leave them out")
        self._keep = state
        self._render = make_render(env, size, size, camera)
        first, _ = jax.eval_shape(env.reset, jax.random.key(0))
        shape = jax.eval_shape(self._render, first).shape
        self._spec = {IMAGE: specs.BoundedArray(shape, np.uint8, 0, 255, name=IMAGE), **(inner if state else {})}

    @property
    def observation_spec(self) -> Spec:
        """The picture's, and the held environment's."""
        return dict(self._spec)

    def reset(self, key: PRNGKey) -> tuple[EnvState, TimeStep]:
        """Draw a first state, and its picture."""
        state, timestep = self.env.reset(key)
        return state, self._see(state, timestep)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """Apply ``action`` to ``state``, and draw where that leads."""
        state, timestep = self.env.step(state, action)
        return state, self._see(state, timestep)

    def _see(self, state: EnvState, timestep: TimeStep) -> TimeStep:
        image = {IMAGE: self._render(state)}
        if self._keep:
            return timestep._replace(observation=image | as_dict(timestep.observation))
        return _shown(timestep, image)


class PicturesOnly(Wrapper):
    """Hides all of the observation but its pictures.

    Raises:
        UserError: when there is no picture; ``name`` is the environment's in that sentence.
    """

    def __init__(self, env: Environment, name: str = "") -> None:
        super().__init__(env)
        self._spec = {key: spec for key, spec in as_dict(env.observation_spec).items() if is_image(spec)}
        if not self._spec:
            raise UserError(f"env.state is false, but {name!r} observes no picture: set env.pixels, for example to 64")

    @property
    def observation_spec(self) -> Spec:
        """The pictures'."""
        return dict(self._spec)

    def reset(self, key: PRNGKey) -> tuple[EnvState, TimeStep]:
        """Draw a first state."""
        state, timestep = self.env.reset(key)
        return state, self._see(timestep)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """Apply ``action`` to ``state``."""
        state, timestep = self.env.step(state, action)
        return state, self._see(timestep)

    def _see(self, timestep: TimeStep) -> TimeStep:
        seen = as_dict(timestep.observation)
        return _shown(timestep, {key: seen[key] for key in self._spec})


def _shown(timestep: TimeStep, kept: dict[str, Array]) -> TimeStep:
    """Return the step with what is kept as its observation, and no reward where what is hidden is not finite."""
    broken = ~_finite(timestep.observation)
    return timestep._replace(observation=kept, reward=jnp.where(broken, jnp.nan, timestep.reward))


def _finite(observation: Observation) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(observation)]).all()
