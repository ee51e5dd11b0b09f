"""Brax's environments, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core.errors import UserError, unknown
from mbrl.envs.physics import PhysicsEnv, build, load, quiet

BACKENDS = ("generalized", "mjx", "positional", "spring")


class BraxEnv(PhysicsEnv):
    """A Brax environment: ``done`` is a termination; time limits are ours.

    Args:
        name: one of ``NAMES``.
        backend: one of ``BACKENDS``, or ``None`` for the one Brax prefers.

    Attributes:
        sys: the Brax ``System``, for drawing; ``sys.mj_model`` is MuJoCo's. A state's positions are in
            ``state.pipeline_state``.

    Raises:
        UserError: when there is no such environment or backend.
    """

    def __init__(self, name: str, backend: str | None = None) -> None:
        refuse_left_out(name)
        if name not in _POSES:
            raise unknown("Brax environment", name, NAMES)
        if backend is not None and backend not in BACKENDS:
            raise unknown("Brax backend", backend, BACKENDS)
        options = {} if backend is None else {"backend": backend}
        envs = load("brax.envs")
        super().__init__(build(lambda: envs.get_environment(name, **options)))
        self.name = name
        self.sys = self.physics.sys

    def pose(self, observation: Float[Array, "*N D"]) -> Float[Array, "*N Q"]:
        """Return the generalised positions q that an observation tells of, imagined ones too.

        Positions that Brax leaves out of the observation (how far a walker has come) are 0.
        """
        with quiet():
            return _POSES[self.name](observation, self.sys)


def refuse_left_out(name: str) -> None:
    """Raise ``UserError`` for a Brax environment that exists but is not offered, and say why."""
    if name in LEFT_OUT:
        raise UserError(f"environment 'brax/{name}' is left out because {LEFT_OUT[name]}")


def _joints(hidden: int) -> Callable[[Array, Any], Array]:
    """Observations that begin with q, but for its first ``hidden`` entries."""

    def pose(observation: Array, sys: Any) -> Array:
        start = jnp.zeros((*observation.shape[:-1], hidden), observation.dtype)
        return jnp.concatenate([start, observation[..., : sys.q_size() - hidden]], axis=-1)

    return pose


def _free_body(observation: Array, sys: Any) -> Array:
    """Like ``_joints(2)``; the root's quaternion is made a unit one, which an imagined one need not be."""
    q = _joints(2)(observation, sys)
    turn = q[..., 3:7]
    return q.at[..., 3:7].set(turn / jnp.maximum(jnp.linalg.norm(turn, axis=-1, keepdims=True), 1e-6))


def _planar_walker(observation: Array, sys: Any) -> Array:
    """Like ``_joints(1)``, but the height is the torso's in the world, not the joint's own."""
    return _joints(1)(observation, sys).at[..., 1].add(-sys.link.transform.pos[0, 2])


def _double_pendulum(observation: Array, sys: Any) -> Array:
    """Cart, then the sines and then the cosines of both angles."""
    del sys
    return jnp.concatenate([observation[..., :1], jnp.arctan2(observation[..., 1:3], observation[..., 3:5])], axis=-1)


def _reacher(observation: Array, sys: Any) -> Array:
    """The cosines and then the sines of both angles, then the target."""
    del sys
    return jnp.concatenate([jnp.arctan2(observation[..., 2:4], observation[..., :2]), observation[..., 4:6]], axis=-1)


def _pusher(observation: Array, sys: Any) -> Array:
    """Seven angles first; the object and the goal, each on slides along y and x, are last, in world coordinates."""
    links = [sys.link_names.index(name) for name in ("object", "goal")]
    home = (sys.link.transform.pos + sys.link.inertia.transform.pos)[jnp.array(links)]
    slides = (observation[..., 17:].reshape(*observation.shape[:-1], 2, 3) - home)[..., 1::-1]
    return jnp.concatenate([observation[..., :7], slides.reshape(*observation.shape[:-1], 4)], axis=-1)


_POSES = {
    "ant": _free_body,
    "halfcheetah": _joints(1),
    "hopper": _planar_walker,
    "humanoid": _free_body,
    "humanoidstandup": _free_body,
    "inverted_double_pendulum": _double_pendulum,
    "inverted_pendulum": _joints(0),
    "pusher": _pusher,
    "reacher": _reacher,
    "walker2d": _planar_walker,
}
NAMES = tuple(_POSES)
LEFT_OUT = {
    "fast": "it is Brax's own test stub, without physics",
    "swimmer": "it crashes inside Brax on every backend",
}
