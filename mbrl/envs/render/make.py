"""From an environment's state to a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mbrl.core.errors import UserError
from mbrl.envs.base import Environment, EnvState
from mbrl.envs.physics import build, load, mechanism, quiet
from mbrl.envs.render import camera as cameras
from mbrl.envs.render.picture import draw, to_bytes
from mbrl.envs.render.scene import Scene, read
from mbrl.envs.render.view import default_camera
from mbrl.envs.wrappers import innermost, unwrap

Render = Callable[[EnvState], UInt8[Array, "H W C"]]


def make_render(env: Environment, height: int, width: int, camera: str | None = None) -> Render:
    """Return a function from one state of ``env``, without batch axis, to its picture, ``uint8 [H, W, 3]``.

    An environment with a method ``render(state, height, width)`` draws itself, with as many channels as it likes.
    One of Brax or the Playground is drawn from its MuJoCo model.

    Args:
        env: an environment, with its wrappers.
        height: H, pixels.
        width: W, pixels.
        camera: the name of one of the model's cameras. None is the first camera for the DM-Control suite, as in its
            published vision tasks, and ``default_camera`` for Brax.

    Raises:
        UserError: when the environment has no picture, there is no such camera, or a size is below 1.
    """
    for name, size in (("height", height), ("width", width)):
        if size < 1:
            raise UserError(f"the picture's {name} is {size}, but must be at least 1 pixel")
    base: Any = innermost(env)
    if hasattr(base, "render"):
        if camera is not None:
            raise UserError(f"environment {_name(base)} draws itself, so it has no camera {camera!r}: leave it out")
        return lambda state: base.render(unwrap(env, state)[1], height, width)
    scene = make_scene(env, width / height, camera)
    return lambda state: to_bytes(draw(scene, *poses(env, state), height, width))


def make_scene(env: Environment, aspect: float = 1.0, camera: str | None = None) -> Scene:
    """Return what ``draw`` draws of an environment of Brax or the Playground.

    Args:
        env: an environment, with its wrappers.
        aspect: the picture's width over its height, which a default camera is set up for.
        camera: as for ``make_render``.

    Raises:
        UserError: when the environment has no MuJoCo model, or there is no such camera.
    """
    base: Any = innermost(env)
    model = mechanism(base)
    if model is None:
        raise UserError(
            f"environment {_name(base)} has no picture: only those with a MuJoCo model or a method render have one"
        )
    if camera is not None:
        chosen = cameras.of_model(model, camera)
    elif hasattr(base, "sys") or model.ncam == 0:  # only the suite's cameras are those of published results
        chosen = build(lambda: default_camera(model, aspect))
    else:
        chosen = cameras.numbered(model, 0)
    return read(model, chosen)


def poses(env: Environment, state: EnvState) -> tuple[Float[Array, "N 3"], Float[Array, "N 4"]]:
    """Return positions and rotations of all N bodies, the world first, in a state of Brax or the Playground.

    MJX ends a step with integration, so what it says of bodies is from before: they are placed anew, by the joints.

    Args:
        env: an environment, with its wrappers.
        state: one of its states, without batch axis.
    """
    held: Any
    held, inner = unwrap(env, state)
    with quiet():
        if hasattr(inner, "data"):
            data = load("mujoco.mjx").kinematics(held.physics.mjx_model, inner.data)
            return data.xpos, data.xquat
        links = inner.pipeline_state.x
        if held.physics.backend == "mjx":
            joints = inner.pipeline_state
            links, _ = load("brax.kinematics").forward(held.sys, joints.q, joints.qd)
    positions = jnp.concatenate([jnp.zeros((1, 3)), links.pos])
    return positions, jnp.concatenate([jnp.array([[1.0, 0.0, 0.0, 0.0]]), links.rot])


def _name(env: Any) -> str:
    return type(env).__name__
