"""Where the picture is taken from: what a camera, or a light, is fixed to, and where that is in a state."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mbrl.core.errors import UserError

FIXED, TRACK, TRACKCOM, TARGET, TARGETCOM = range(5)  # MuJoCo's mjtCamLight


class Mount(NamedTuple):
    """What something is fixed to, in MuJoCo's five ways.

    FIXED moves and turns with its body, TRACK and TRACKCOM follow the body's or its subtree's centre without
    turning, TARGET and TARGETCOM move with their body and look at another one.
    """

    mode: int
    body: int
    target: int  # the body that is looked at; -1 for none
    position: Float[np.ndarray, "3"]  # in the body's frame if FIXED, else relative to what is followed
    rotation: Float[np.ndarray, "3 3"]  # columns: right, up, back
    follow: Float[np.ndarray, "3"]  # along which axes of the world it follows: 1 or 0
    masses: Float[np.ndarray, "N"]  # each body's share of the subtree's mass, for the modes that need a centre
    middles: Float[np.ndarray, "N 3"]  # each body's centre of mass in its own frame


class Camera(NamedTuple):
    """A pinhole camera."""

    mount: Mount
    fovy: float  # degrees from the bottom of the picture to its top


def turn(rotations: Float[Array, "*N 4"]) -> Float[Array, "*N 3 3"]:
    """Return the matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = (rotations[..., i] for i in range(4))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def stand(
    mount: Mount, positions: Float[Array, "N 3"], frames: Float[Array, "N 3 3"]
) -> tuple[Float[Array, "3"], Float[Array, "3 3"]]:
    """Return where a mount is and which way it is turned (columns: right, up, back).

    Args:
        mount: of a camera or a light.
        positions: of all bodies, the world first.
        frames: their rotation matrices.
    """
    still = jnp.asarray(mount.rotation, jnp.float32)
    offset = jnp.asarray(mount.position, jnp.float32)
    if mount.mode == FIXED and mount.body == 0:
        return offset, still
    if mount.mode == TRACK:
        return offset + mount.follow.astype(np.float32) * positions[mount.body], still
    if mount.mode == TRACKCOM:
        return offset + _centre(mount, positions, frames), still
    place = positions[mount.body] + frames[mount.body] @ offset
    if mount.mode == FIXED:
        return place, frames[mount.body] @ still
    target = positions[mount.target] if mount.mode == TARGET else _centre(mount, positions, frames)
    return place, _facing(place - target)


def _facing(back: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """Return the frame that looks along ``-back`` with the horizon level."""
    back = back / jnp.linalg.norm(back)
    right = jnp.cross(jnp.array([0.0, 0.0, 1.0]), back)
    right = right / jnp.maximum(jnp.linalg.norm(right), 1e-6)
    return jnp.stack([right, jnp.cross(back, right), back], axis=1)


def _centre(mount: Mount, positions: Float[Array, "N 3"], frames: Float[Array, "N 3 3"]) -> Float[Array, "3"]:
    middles = positions + jnp.einsum("nij,nj->ni", frames, jnp.asarray(mount.middles, jnp.float32))
    return jnp.asarray(mount.masses, jnp.float32) @ middles


def of_model(model: Any, name: str) -> Camera:
    """Return the camera of a ``mujoco.MjModel`` that has this name.

    Raises:
        UserError: when there is none, or it is no pinhole camera.
    """
    names = [model.camera(i).name for i in range(model.ncam)]
    if name not in names:
        there = f"has {', '.join(repr(n) for n in names if n)}" if any(names) else "has none"
        raise UserError(f"there is no camera {name!r}: the model {there}; leave it out for one that follows")
    return numbered(model, names.index(name))


def numbered(model: Any, camera: int) -> Camera:
    """Return a ``mujoco.MjModel``'s camera by its number.

    Raises:
        UserError: when its projection is orthographic.
    """
    if int(model.cam_projection[camera]):
        raise UserError(f"camera {model.camera(camera).name!r} is orthographic, but only pinhole cameras are drawn")
    columns = ("mode", "bodyid", "targetbodyid", "pos", "pos0", "poscom0", "quat", "mat0")
    row = {column: getattr(model, f"cam_{column}")[camera] for column in columns}
    return Camera(mounted(model, row), float(model.cam_fovy[camera]))


def mounted(model: Any, row: dict[str, Any]) -> Mount:
    """Return the mount of a camera or a light, of which ``row`` holds MuJoCo's columns."""
    mode, body, target = int(row["mode"]), int(row["bodyid"]), int(row["targetbodyid"])
    position = {TRACK: row["pos0"], TRACKCOM: row["poscom0"]}.get(mode, row["pos"])
    rotation = np.asarray(row["mat0"], float).reshape(3, 3)
    if mode == FIXED:
        rotation = np.asarray(turn(jnp.asarray(row["quat"], jnp.float32)))
    centred = target if mode == TARGETCOM else body
    share = np.where(_subtree(model, centred), model.body_mass, 0.0)
    share = share / max(share.sum(), 1e-9)
    return Mount(mode, body, target, np.array(position), rotation, np.ones(3), share, np.array(model.body_ipos))


def _subtree(model: Any, root: int) -> Int[np.ndarray, "N"]:
    """Return 1 for the bodies that hang on ``root``, itself among them."""
    below = np.zeros(model.nbody, int)
    for body in range(model.nbody):
        below[body] = body == root or (body > 0 and below[model.body_parentid[body]])
    return below
