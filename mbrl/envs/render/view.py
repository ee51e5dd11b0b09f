"""A camera for a model that brings none: from the side, or from above, far enough away to see all of it."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from jaxtyping import Float

from mbrl.envs.render.camera import FIXED, TRACK, Camera, Mount

_FOVY = 45.0
_MARGIN = 1.25  # how much more than the mechanism is seen
_FAR = 1.5  # slides that go further than this many times what is there are not followed to their end
_TALL = 0.7  # what can fall over gets at least this share of its length as height
_LEVEL, _LOOKING_DOWN = 8.0, 24.0  # degrees above the horizon: for what moves in a vertical plane, for all else
_FREE, _BALL, _SLIDE, _HINGE = range(4)  # mjtJoint


def default_camera(model: Any, aspect: float) -> Camera:
    """Return a camera that shows a mechanism at rest, and as far as its slides may take it, from top to toe.

    What moves in a horizontal plane alone is seen from above, all else from the side (from -y). Where the root can
    leave for good, by a free joint or a slide without end, the camera follows it in x and y, without turning.

    Args:
        model: a ``mujoco.MjModel``.
        aspect: the picture's width over its height.
    """
    mujoco: Any = importlib.import_module("mujoco")
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    root = _leaving(model)
    low, high = _extent(model, data, root)
    across, up = _across(model), 90.0 if _horizontal(model) else _LOOKING_DOWN
    frame = _frame(_LEVEL if across else up)
    middle = (low + high) / 2
    corners = np.array(np.meshgrid(*zip(low - middle, high - middle, strict=True))).reshape(3, -1).T @ frame
    tangent = np.tan(np.radians(_FOVY) / 2)
    # Each corner must be within the picture at its own depth.
    reach = np.maximum(np.abs(corners[:, 0]) / aspect, np.abs(corners[:, 1])) * _MARGIN / tangent + corners[:, 2]
    eye = middle + reach.max() * frame[:, 2]
    masses, middles = np.zeros(model.nbody), np.zeros((model.nbody, 3))
    if root is None:
        return Camera(Mount(FIXED, 0, -1, eye, frame, np.ones(3), masses, middles), _FOVY)
    follow = np.array([1.0, 1.0, 0.0])
    return Camera(Mount(TRACK, root, -1, eye - follow * data.xpos[root], frame, follow, masses, middles), _FOVY)


def _frame(elevation: float) -> Float[np.ndarray, "3 3"]:
    """Return right, up and back (columns) of a camera in the plane x = 0 that looks at the origin from -y."""
    sine, cosine = np.sin(np.radians(elevation)), np.cos(np.radians(elevation))
    return np.array([[1, 0, 0], [0, sine, -cosine], [0, cosine, sine]]).astype(float)


def _leaving(model: Any) -> int | None:
    """Return the first body below the world that can leave it for good."""
    for joint in range(model.njnt):
        body = int(model.jnt_bodyid[joint])
        kind = int(model.jnt_type[joint])
        endless = kind == _FREE or (kind == _SLIDE and not model.jnt_limited[joint])
        if endless and model.body_parentid[body] == 0:
            return body
    return None


def _across(model: Any) -> bool:
    """Whether all that moves does so in a plane y = constant."""
    return all(_moves_in_plane(model, joint, 1) for joint in range(model.njnt))


def _horizontal(model: Any) -> bool:
    """Whether all that moves does so in a plane z = constant."""
    return all(_moves_in_plane(model, joint, 2) for joint in range(model.njnt))


def _moves_in_plane(model: Any, joint: int, normal: int) -> bool:
    kind, slope = int(model.jnt_type[joint]), abs(float(model.jnt_axis[joint][normal]))
    return (kind == _HINGE and slope > 0.99) or (kind == _SLIDE and slope < 0.01)


def _extent(model: Any, data: Any, root: int | None) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Return the corners of a box around the mechanism; around its world too, planes excepted, if it stays there."""
    bodies = model.geom_bodyid
    drawn = [i for i in range(model.ngeom) if model.geom_type[i] != 0 and (root is None or bodies[i] > 0)]
    if not drawn:
        return -np.ones(3), np.ones(3)
    spots = data.geom_xpos[drawn]
    sides = np.stack([np.abs(data.geom_xmat[i].reshape(3, 3)) @ _half_sides(model, i) for i in drawn])
    low, high = (spots - sides).min(axis=0), (spots + sides).max(axis=0)
    if root is not None:  # what lies down may stand up, and what stands may fall
        most = (high - low).max()
        middle = (low[0] + high[0]) / 2
        low[0], high[0] = middle - most / 2, middle + most / 2
        high[2] = max(high[2], low[2] + _TALL * most)
        return low, high
    usual = _FAR * (high - low).max()  # a range beyond that is there to be never reached
    for joint in np.flatnonzero((model.jnt_type == _SLIDE) & (model.jnt_limited > 0)):
        if np.abs(model.jnt_range[joint]).max() > usual:
            continue
        inside = bodies[drawn] == model.jnt_bodyid[joint]
        along = data.xmat[model.jnt_bodyid[joint]].reshape(3, 3) @ model.jnt_axis[joint]
        for end in model.jnt_range[joint]:
            low = np.minimum(low, np.where(inside[:, None], spots + end * along, low).min(axis=0))
            high = np.maximum(high, np.where(inside[:, None], spots + end * along, high).max(axis=0))
    return low, high


def _half_sides(model: Any, geom: int) -> Float[np.ndarray, "3"]:
    """Return the half sides of a box around a geom in its own frame."""
    radius, half, _ = size = model.geom_size[geom]
    kind = int(model.geom_type[geom])
    round_ = {2: (radius,) * 3, 3: (radius, radius, half + radius), 5: (radius, radius, half)}  # mjtGeom
    return np.array(round_.get(kind, size), float)
