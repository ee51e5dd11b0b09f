"""A small software drawer of mechanisms: joint positions in, anti-aliased pictures out; no GL, no display.

Every geom becomes a convex outline in the picture's plane, grown by a radius: a capsule is a segment with a
radius, a sphere a point with one, a box the hull of its corners. The distance of each pixel to that outline gives
coverage and shading. The projection is orthographic.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

Colour: TypeAlias = tuple[int, int, int]
Frames: TypeAlias = UInt8[np.ndarray, "T H W 3"]

BLUE: Colour = (58, 120, 214)
ORANGE: Colour = (226, 122, 48)
_SKY, _GROUND, _LINE, _STILL = (247, 248, 250), (226, 230, 235), (150, 158, 168), (172, 179, 188)
_FOLLOW = 1.2  # widths of the mechanism it has to travel before the camera goes along
_FLAT = 0.05  # less motion in height than this share of the sideways motion is seen from above


class Shape(NamedTuple):
    """A geom in its own frame: the hull of some points, grown by a radius."""

    geom: int
    points: Float[np.ndarray, "P 3"]
    radius: float
    still: bool  # belongs to the world


class Camera(NamedTuple):
    """Where the picture is taken from; shared by pictures that are to be compared."""

    above: bool  # seen from above (x right, y up) instead of from the side (x right, z up)
    middle: Float[np.ndarray, "2"]
    follow: bool  # keep the mechanism's mean x in the middle
    scale: float  # pixels per metre
    height: int
    width: int


def place(
    model: Any, q: Float[np.ndarray, "T Q"], mocap: Float[np.ndarray, "T M 3"] | None = None
) -> tuple[Float[np.ndarray, "T G 3"], Float[np.ndarray, "T G 3 3"]]:
    """Return the positions and rotations of all geoms of a ``mujoco.MjModel``.

    Args:
        model: a ``mujoco.MjModel``.
        q: joint positions.
        mocap: positions of the bodies that are put somewhere instead of moving, such as a target; None for where the
            model has them.
    """
    mujoco: Any = importlib.import_module("mujoco")
    data = mujoco.MjData(model)
    positions, rotations = np.zeros((len(q), model.ngeom, 3)), np.zeros((len(q), model.ngeom, 3, 3))
    for t, joints in enumerate(q):
        data.qpos[:] = np.nan_to_num(joints)
        if mocap is not None:
            data.mocap_pos[:] = np.nan_to_num(mocap[t])
        mujoco.mj_kinematics(model, data)
        positions[t], rotations[t] = data.geom_xpos, data.geom_xmat.reshape(-1, 3, 3)
    return positions, rotations


def shapes(model: Any) -> list[Shape]:
    """Return what is drawn of a ``mujoco.MjModel``: all geoms but planes and height fields."""
    outlines = ((geom, _outline(model, geom)) for geom in range(model.ngeom))
    return [Shape(g, *outline, bool(model.geom_bodyid[g] == 0)) for g, outline in outlines if outline is not None]


def aim(
    model: Any,
    q: Float[np.ndarray, "T Q"],
    height: int = 160,
    width: int = 240,
    mocap: Float[np.ndarray, "T M 3"] | None = None,
) -> Camera:
    """Return a camera that sees everything that moves during ``q``, however far it goes; ``mocap`` as in ``place``."""
    positions, rotations = place(model, q, mocap)
    drawn = shapes(model)
    moving = [s.geom for s in drawn if not s.still] or [s.geom for s in drawn]
    root = positions[:, moving].mean(axis=1)
    sway, heave = (np.ptp(positions[:, moving, axis] - root[:, None, axis], axis=0).max() for axis in (1, 2))
    above = bool(heave < _FLAT * sway)
    points = [_project(_world(s, positions, rotations), above) for s in drawn]  # [T, P, 2] each
    radius = np.array([s.radius for s in drawn])[:, None, None]
    low, high = np.stack([p.min(axis=1) for p in points]) - radius, np.stack([p.max(axis=1) for p in points]) + radius
    body = [s.geom in moving for s in drawn]
    follow = bool(np.ptp(root[:, 0]) > _FOLLOW * (high[body] - low[body])[..., 0].max())
    if follow:
        along = np.stack([root[:, 0], np.zeros(len(q))], axis=1)
        low, high = low[body] - along, high[body] - along
    low, high = low.min(axis=(0, 1)), high.max(axis=(0, 1))
    ground = None if above else _ground(model)
    low[1] = low[1] if ground is None else min(low[1], ground - 0.08 * (high[1] - ground))
    scale = 0.86 * min(width / (high[0] - low[0]), height / (high[1] - low[1]))
    return Camera(above, (low + high) / 2, follow, float(scale), height, width)


def draw(
    model: Any,
    q: Float[np.ndarray, "T Q"],
    camera: Camera,
    colour: Colour = BLUE,
    mocap: Float[np.ndarray, "T M 3"] | None = None,
) -> Frames:
    """Return pictures of a mechanism, one for each row of joint positions.

    Args:
        model: a ``mujoco.MjModel``; Brax systems have theirs as ``sys.mj_model``.
        q: joint positions.
        camera: see ``aim``.
        colour: of what moves; what belongs to the world is grey.
        mocap: see ``place``.
    """
    positions, rotations = place(model, q, mocap)
    drawn = shapes(model)
    moving = [s.geom for s in drawn if not s.still]
    frames = np.empty((len(q), camera.height, camera.width, 3), np.uint8)
    for t in range(len(q)):
        middle = camera.middle + np.array([positions[t, moving, 0].mean() if camera.follow else 0, 0])
        image = _stage(model, camera, middle)
        depth = positions[t, :, 2] if camera.above else -positions[t, :, 1]
        for shape in sorted(drawn, key=lambda s: (not s.still, depth[s.geom])):
            corners = _project(_world(shape, positions[t], rotations[t]), camera.above)
            pixels = (corners - middle) * [camera.scale, -camera.scale] + [camera.width / 2, camera.height / 2]
            shade = _STILL if shape.still else _vary(colour, int(model.geom_bodyid[shape.geom]))
            _paint(image, _hull(pixels), shape.radius * camera.scale, shade)
        frames[t] = np.round(image)
    return frames


def _outline(model: Any, geom: int) -> tuple[np.ndarray, float] | None:
    kinds: Any = importlib.import_module("mujoco").mjtGeom
    size = model.geom_size[geom]
    kind = int(model.geom_type[geom])
    if kind == kinds.mjGEOM_SPHERE:
        return np.zeros((1, 3)), size[0]
    if kind == kinds.mjGEOM_CAPSULE:
        return np.array([[0, 0, -size[1]], [0, 0, size[1]]]), size[0]
    if kind == kinds.mjGEOM_BOX:
        return _grid([-1, 1], [-1, 1], [-1, 1]) * size, 0.0
    if kind == kinds.mjGEOM_CYLINDER:
        around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ring = np.stack([np.cos(around), np.sin(around)], axis=1) * size[0]
        return np.concatenate([np.insert(ring, 2, z, axis=1) for z in (-size[1], size[1])]), 0.0
    if kind == kinds.mjGEOM_ELLIPSOID:
        up, around = _grid(np.linspace(0, np.pi, 13), np.linspace(0, 2 * np.pi, 24, endpoint=False)).T
        return np.stack([np.sin(up) * np.cos(around), np.sin(up) * np.sin(around), np.cos(up)], axis=1) * size, 0.0
    if kind == kinds.mjGEOM_MESH:
        mesh = model.geom_dataid[geom]
        start = model.mesh_vertadr[mesh]
        return model.mesh_vert[start : start + model.mesh_vertnum[mesh]], 0.0
    return None


def _grid(*axes: Any) -> np.ndarray:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes)).astype(float)


def _world(shape: Shape, positions: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Return the shape's points in the world, ``[..., P, 3]``."""
    turned = shape.points @ np.swapaxes(rotations[..., shape.geom, :, :], -1, -2)
    return turned + positions[..., shape.geom, None, :]


def _project(points: np.ndarray, above: bool) -> np.ndarray:
    return points[..., [0, 1]] if above else points[..., [0, 2]]


def _vary(colour: Colour, body: int) -> np.ndarray:
    """Return the colour, a little lighter for every other body, so that neighbours can be told apart."""
    light = (0.0, 0.34, 0.16)[body % 3]
    return np.array(colour) * (1 - light) + 255 * light


def _ground(model: Any) -> float | None:
    """Return the height of the floor, if there is one."""
    planes = np.flatnonzero((model.geom_type == 0) & (model.geom_bodyid == 0))
    return float(model.geom_pos[planes[0], 2]) if len(planes) else None


def _stage(model: Any, camera: Camera, middle: np.ndarray) -> np.ndarray:
    """Return the empty picture: sky, and the ground with a mark at every metre, so that motion shows."""
    image = np.tile(np.array(_SKY, float), (camera.height, camera.width, 1))
    ground = _ground(model)
    if camera.above or ground is None:
        return image
    rows = np.arange(camera.height) + 0.5
    level = camera.height / 2 - (ground - middle[1]) * camera.scale
    below = np.clip(rows - level + 0.5, 0, 1)[:, None, None]
    x = (np.arange(camera.width) + 0.5 - camera.width / 2) / camera.scale + middle[0]
    to_mark = np.abs(x - np.round(x)) * camera.scale
    mark = np.clip(1.2 - to_mark, 0, 1)[None, :, None] * (rows < level + 6)[:, None, None]
    line = np.clip(1.5 - np.abs(rows - level), 0, 1)[:, None, None]
    image += below * (np.array(_GROUND) - image)
    return image + np.maximum(line, mark * below) * (np.array(_LINE) - image)


def _hull(points: np.ndarray) -> np.ndarray:
    """Return the convex hull of ``[P, 2]``, counter-clockwise (Andrew's monotone chain, 1979)."""
    if len(points) < 3:
        return points
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]
    chains = []
    for run in (ordered, ordered[::-1]):
        chain: list[np.ndarray] = []
        for point in run:
            while len(chain) > 1 and _cross(chain[-1] - chain[-2], point - chain[-2]) <= 0:
                chain.pop()
            chain.append(point)
        chains += chain[:-1]
    return np.array(chains)


def _cross(a: np.ndarray, b: np.ndarray) -> Any:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _paint(image: np.ndarray, hull: np.ndarray, radius: float, colour: Any) -> None:
    """Lay a grown hull (pixels) over ``image`` ``[H, W, 3]``, shaded as if lit from the front."""
    low = np.floor(hull.min(axis=0) - radius - 1).astype(int).clip(0)
    high = np.ceil(hull.max(axis=0) + radius + 1).astype(int).clip(0)
    patch = image[low[1] : high[1], low[0] : high[0]]
    if not patch.size:
        return
    rows, columns = (np.arange(n) + 0.5 for n in patch.shape[:2])
    pixels = np.stack(np.meshgrid(columns + low[0], rows + low[1]), axis=-1)
    outside = _distance(pixels, hull)
    depth = np.clip(outside, 0, None) / radius if radius > 0 else np.zeros_like(outside)
    light = 0.68 + 0.32 * np.sqrt(np.clip(1 - depth**2, 0, 1))
    cover = np.clip(radius - outside + 0.5, 0, 1)[..., None]
    patch += cover * (np.asarray(colour) * light[..., None] - patch)


def _distance(pixels: np.ndarray, hull: np.ndarray) -> np.ndarray:
    """Return the signed distance of pixels ``[h, w, 2]`` to a convex outline ``[P, 2]``, negative inside."""
    nearest, inside = np.full(pixels.shape[:2], np.inf), np.full(pixels.shape[:2], len(hull) > 2)
    for start, end in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        edge, away = end - start, pixels - start
        along = np.clip(away @ edge / max(edge @ edge, 1e-12), 0, 1)[..., None]
        nearest = np.minimum(nearest, np.linalg.norm(away - along * edge, axis=-1))
        inside &= _cross(edge, away) >= 0
    return np.where(inside, -nearest, nearest)
