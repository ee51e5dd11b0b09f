"""What there is to draw, read once from a MuJoCo model: shapes, colours, floor, sky, light and camera."""

from __future__ import annotations

import importlib
import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mbrl.envs.render.camera import FIXED, Camera, Mount, mounted

KINDS = ("plane", "sphere", "capsule", "ellipsoid", "cylinder", "box")
_MUJOCO = {0: "plane", 2: "sphere", 3: "capsule", 4: "ellipsoid", 5: "cylinder", 6: "box"}  # mjtGeom
_GROUPS = 3  # MuJoCo shows the first three unless told otherwise
_ENDLESS = 1000.0  # metres: the half side of a plane without one
_PLAIN = 0.9  # a plane of one colour gets squares of which every other one is darker
_SKY = ((0.62, 0.75, 0.88), (0.33, 0.52, 0.76))  # horizon and zenith where the model has no sky of its own
_SHADES = 4  # coefficients of a sky's colour over the sine of the elevation


class Light(NamedTuple):
    """One light, besides the one that MuJoCo fastens to the camera."""

    mount: Mount
    direction: Float[np.ndarray, "3"]  # where it shines, in the world
    endless: bool  # the same direction everywhere, as the sun's
    cutoff: float  # the cosine beyond which a spot is dark
    exponent: float  # how fast it falls off from its axis
    shadows: bool
    colour: Float[np.ndarray, "3"]


class Scene(NamedTuple):
    """All that stays the same from picture to picture. G shapes on N bodies, of which the world is the first."""

    kinds: Int[np.ndarray, "G"]  # places in ``KINDS``
    sizes: Float[np.ndarray, "G 3"]  # radius and half length, half axes or half sides, as MuJoCo has them
    bodies: Int[np.ndarray, "G"]  # what each shape is part of
    offsets: Float[np.ndarray, "G 3"]  # where, in the body's frame
    turns: Float[np.ndarray, "G 4"]  # and how it is turned there, a quaternion (w, x, y, z)
    colours: Float[np.ndarray, "G 4"]  # red, green, blue, opacity, in [0, 1]
    seconds: Float[np.ndarray, "G 3"]  # the colour of a plane's every other square
    tiles: Float[np.ndarray, "G 2"]  # the sides of these squares in metres; 0 for none
    sky: Float[np.ndarray, "K 3"]  # coefficients of a polynomial in the sine of the elevation, lowest first
    ambient: Float[np.ndarray, "3"]
    headlight: Float[np.ndarray, "3"]  # shines from the eye
    light: Light | None
    camera: Camera


def read(model: Any, camera: Camera) -> Scene:
    """Return what is drawn of a ``mujoco.MjModel``, seen from ``camera``.

    Geoms and sites of MuJoCo's first three groups are drawn, if they are not transparent altogether. A kind of
    geometry that is not in ``KINDS`` (meshes, height fields) is left out, with one warning.
    """
    rows = [_geom(model, i) for i in range(model.ngeom) if _shown(model, "geom", i)]
    rows += [_site(model, i) for i in range(model.nsite) if _shown(model, "site", i)]
    _name_missing(model)
    columns = [np.array(column) for column in zip(*rows, strict=True)] if rows else _nothing()
    kinds, bodies = columns[0].astype(int), columns[1].astype(int)
    sizes, offsets, turns, colours, seconds, tiles = (column.astype(float) for column in columns[2:])
    head, light = model.vis.headlight, _light(model)
    on = float(head.active > 0)
    ambient = on * np.array(head.ambient, float)
    if light is not None:
        ambient = ambient + model.light_ambient[_lit(model)]
    return Scene(
        kinds, sizes, bodies, offsets, turns, colours, seconds, tiles, _sky(model), ambient.astype(float),
        on * np.array(head.diffuse, float), light, camera,
    )


def _nothing() -> list[np.ndarray]:
    return [np.zeros((0, *shape)) for shape in ((), (), (3,), (3,), (4,), (4,), (3,), (2,))]


def _shown(model: Any, what: str, i: int) -> bool:
    return int(getattr(model, f"{what}_type")[i]) in _MUJOCO and _visible(model, what, i)


def _visible(model: Any, what: str, i: int) -> bool:
    """Whether MuJoCo shows it."""
    return bool(getattr(model, f"{what}_group")[i] < _GROUPS and _colour(model, what, i)[3] > 0)


def _name_missing(model: Any) -> None:
    """Warn once of what is visible in MuJoCo and not here."""
    kinds: Any = importlib.import_module("mujoco").mjtGeom
    shown = [i for i in range(model.ngeom) if _visible(model, "geom", i)]
    missing = sorted({int(model.geom_type[i]) for i in shown} - set(_MUJOCO))
    if missing:
        names = ", ".join(kinds(kind).name.removeprefix("mjGEOM_").lower() for kind in missing)
        warnings.warn(f"geometry of kind {names} is not drawn; the rest of the model is", stacklevel=4)


def _colour(model: Any, what: str, i: int) -> Float[np.ndarray, "4"]:
    """A shape's own colour, or its material's where it has MuJoCo's default."""
    own, material = getattr(model, f"{what}_rgba")[i], int(getattr(model, f"{what}_matid")[i])
    plain = np.allclose(own, [0.5, 0.5, 0.5, 1])
    return np.array(model.mat_rgba[material] if plain and material >= 0 else own, float)


def _geom(model: Any, i: int) -> tuple[Any, ...]:
    kind = _MUJOCO[int(model.geom_type[i])]
    size, colour = np.array(model.geom_size[i], float), _colour(model, "geom", i)
    second, tile = colour[:3], np.zeros(2)
    texture = _texture(model, int(model.geom_matid[i]))
    if kind == "plane":
        endless = size[:2] <= 0
        size[:2] = np.where(endless, _ENDLESS, size[:2])
        if texture is not None:
            first, other = _board(texture)
            second, colour[:3] = colour[:3] * other, colour[:3] * first
            tile = _tile(model, int(model.geom_matid[i]), np.where(endless, 1.0, size[:2]))
        elif model.geom_matid[i] < 0:
            second, tile = _PLAIN * second, np.full(2, _plain_tile(size))
    elif texture is not None:
        colour[:3] *= np.median(texture.reshape(-1, 3), axis=0)
    place = model.geom_pos[i], model.geom_quat[i]
    return KINDS.index(kind), model.geom_bodyid[i], size, *place, colour, second, tile


def _site(model: Any, i: int) -> tuple[Any, ...]:
    colour = _colour(model, "site", i)
    place = model.site_pos[i], model.site_quat[i]
    kind = KINDS.index(_MUJOCO[int(model.site_type[i])])
    return kind, model.site_bodyid[i], model.site_size[i], *place, colour, colour[:3], np.zeros(2)


def _texture(model: Any, material: int) -> Float[np.ndarray, "H W 3"] | None:
    """Return the picture on a material, in [0, 1]."""
    found = [int(one) for one in model.mat_texid[material] if one >= 0] if material >= 0 else []
    return _picture(model, found[0]) if found else None


def _picture(model: Any, texture: int) -> Float[np.ndarray, "H W 3"]:
    height, width, depth = (int(getattr(model, f"tex_{one}")[texture]) for one in ("height", "width", "nchannel"))
    start = int(model.tex_adr[texture])
    data = model.tex_data[start : start + height * width * depth].reshape(height, width, depth)
    return np.broadcast_to(data[..., :3], (height, width, 3)) / 255.0


def _board(texture: Float[np.ndarray, "H W 3"]) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Return the two colours of a checker board: the medians of the upper quarters."""
    height, width = texture.shape[0] // 2, texture.shape[1] // 2
    left, right = texture[:height, :width], texture[:height, width:]
    return np.median(left.reshape(-1, 3), axis=0), np.median(right.reshape(-1, 3), axis=0)


def _tile(model: Any, material: int, size: Float[np.ndarray, "2"]) -> Float[np.ndarray, "2"]:
    """Return the sides of a square of the texture's board; two of them are a period, and texrepeat counts periods.

    It counts them per two metres where it is uniform and on planes without end, else over the whole plane.
    """
    repeat = np.maximum(model.mat_texrepeat[material], 1e-6)
    return 1 / repeat if model.mat_texuniform[material] else size / repeat


def _plain_tile(size: Float[np.ndarray, "3"]) -> float:
    """Return the side of the squares on a plane that has none of its own: a tenth of its half side, a metre at most."""
    return float(min(size[:2].min() / 10, 1.0))


def _sky(model: Any) -> Float[np.ndarray, "K 3"]:
    """Return the sky's colour over the sine of the elevation, fitted to the model's sky box if it has one."""
    boxes = [i for i in range(model.ntex) if model.tex_type[i] == 2]
    if not boxes:
        sky = np.zeros((_SHADES, 3))
        sky[0], sky[1] = _SKY[0], np.subtract(_SKY[1], _SKY[0])
        return sky
    picture = _picture(model, boxes[0])
    side = picture.shape[1]
    faces = picture.reshape(-1, side, side, 3)
    front = np.median(faces[min(4, len(faces) - 1)], axis=1)  # stars are rare: the median passes over them
    height = 1 - (2 * np.arange(side) + 1) / side
    return np.polynomial.polynomial.polyfit(height / np.sqrt(1 + height**2), front, _SHADES - 1)


def _lit(model: Any) -> int:
    """Return the number of the first light that is on; -1 for none."""
    active = np.flatnonzero(model.light_active)
    return int(active[0]) if len(active) else -1


def _light(model: Any) -> Light | None:
    i = _lit(model)
    if i < 0:
        return None
    columns = {"mode": "mode", "bodyid": "bodyid", "targetbodyid": "targetbodyid", "pos": "pos", "pos0": "pos0"}
    row = {key: getattr(model, f"light_{column}")[i] for key, column in columns.items()}
    row |= {"poscom0": model.light_poscom0[i], "quat": np.array([1.0, 0, 0, 0]), "mat0": np.eye(3)}
    if row["mode"] > 2:  # one that turns to its target shines where it did at first
        row["mode"] = FIXED
    endless = int(model.light_type[i]) == 1  # mjLIGHT_DIRECTIONAL
    spot = int(model.light_type[i]) == 0  # mjLIGHT_SPOT
    return Light(
        mount=mounted(model, row),
        direction=np.array(model.light_dir0[i], float),
        endless=endless,
        cutoff=float(np.cos(np.radians(min(model.light_cutoff[i], 180.0)))) if spot else -1.0,
        exponent=float(model.light_exponent[i]) if spot else 0.0,
        shadows=bool(model.light_castshadow[i]),
        colour=np.array(model.light_diffuse[i], float),
    )
