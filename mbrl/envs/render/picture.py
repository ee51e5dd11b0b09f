"""Bodies' positions in, a picture out: shapes in front of one another, light, shadows, the sky."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from mbrl.envs.render import flat, shapes
from mbrl.envs.render.camera import stand, turn
from mbrl.envs.render.light import Casters, Lamp, casters, lit, shadow, shine
from mbrl.envs.render.scene import KINDS, Scene
from mbrl.envs.render.shapes import Map, Rays, Shape, Vector

Stack: TypeAlias = Float[Array, "K H W"]

_ROUND = {
    "sphere": shapes.sphere,
    "capsule": shapes.capsule,
    "ellipsoid": shapes.ellipsoid,
    "cylinder": shapes.cylinder,
}
_BANDS = 4  # a picture is drawn in so many pieces, which stay in the cache
_FIRST = 1e-6  # of two surfaces at the same depth, the shape that comes first in the scene is seen


class Placed(NamedTuple):
    """The scene's G shapes in the camera's frame (x right, y up, z ahead)."""

    centres: Float[Array, "G 3"]
    axes: Float[Array, "G 3 3"]  # columns
    opacity: Float[Array, "G"]
    up: Float[Array, "3"]  # the world's
    lamp: Lamp | None
    casters: Casters


class Layer(NamedTuple):
    """K shapes of one kind."""

    cover: Stack
    depth: Stack
    colours: tuple[Stack, Stack, Stack]  # lit, at most 1


def draw(
    scene: Scene, positions: Float[Array, "N 3"], rotations: Float[Array, "N 4"], height: int, width: int
) -> Float[Array, "H W 3"]:
    """Return a picture with values in [0, 1], up to rounding, and with a gradient in positions and rotations.

    Edges of shapes are smooth: their coverage of a pixel is worked out. Where one shape enters another the edge is
    hard. Shadows fall on planes only; what casts them is taken for a capsule. If a position is not finite, the bodies
    are left out.

    Args:
        scene: of ``read``.
        positions: of the N bodies, metres, the world first.
        rotations: unit quaternions (w, x, y, z).
        height: H, pixels.
        width: W, pixels.
    """
    sound = jnp.isfinite(positions).all() & jnp.isfinite(rotations).all()
    positions = jnp.where(sound, positions, 0.0)
    frames = turn(jnp.where(sound, rotations, jnp.array([[1.0, 0.0, 0.0, 0.0]])))
    opacity = jnp.asarray(scene.colours[:, 3], jnp.float32) * jnp.where(scene.bodies == 0, 1.0, sound)
    placed = _place(scene, positions, frames, opacity)
    rays = Rays.grid(height, width, scene.camera.fovy)
    pixel = shapes.pixel_side(height, scene.camera.fovy)
    # A loop of one turn would be dissolved; so what cannot be halved or so is drawn row by row.
    bands = next((n for n in range(_BANDS, 1, -1) if height % n == 0), height)
    pieces = jax.tree.map(lambda one: jnp.asarray(one.reshape(bands, height // bands, width)), rays)
    band = lambda rays: _band(scene, placed, rays, pixel)
    channels = jax.lax.map(jax.checkpoint(band, prevent_cse=False), pieces)
    # Stacked outside of the loop: within it, XLA would work everything out again for each channel.
    return jnp.stack([one.reshape(height, width) for one in channels], axis=-1)


def to_bytes(picture: Float[Array, "H W 3"]) -> UInt8[Array, "H W 3"]:
    """Return a picture in 256 steps."""
    return jnp.round(jnp.clip(picture, 0, 1) * 255).astype(jnp.uint8)


def _place(
    scene: Scene, positions: Float[Array, "N 3"], frames: Float[Array, "N 3 3"], opacity: Float[Array, "G"]
) -> Placed:
    eye, view = stand(scene.camera.mount, positions, frames)
    view = view * jnp.array([[1.0, 1.0, -1.0]])  # columns: right, up, ahead
    own = turn(jnp.asarray(scene.turns, jnp.float32))
    bodies = frames[scene.bodies]
    centres = positions[scene.bodies] + jnp.einsum("gij,gj->gi", bodies, jnp.asarray(scene.offsets, jnp.float32))
    centres, axes = (centres - eye[None]) @ view, jnp.einsum("ji,gjk,gkl->gil", view, bodies, own)
    lamp = None
    if scene.light is not None:
        place, _ = stand(scene.light.mount, positions, frames)
        lamp = Lamp((place - eye) @ view, jnp.asarray(scene.light.direction, jnp.float32) @ view)
    return Placed(centres, axes, opacity, view[2], lamp, casters(scene, centres, axes, opacity))


def _band(scene: Scene, placed: Placed, rays: Rays, pixel: float) -> tuple[Map, Map, Map]:
    """Return red, green and blue of some rows."""
    layers = []
    for kind in sorted(set(scene.kinds.tolist())):
        chosen = np.flatnonzero(scene.kinds == kind)
        if KINDS[kind] == "plane":
            layers += [_plane(scene, placed, rays, pixel, int(g)) for g in chosen]
        else:
            shape = _ROUND.get(KINDS[kind], partial(flat.box, pixel=pixel))
            layers.append(_solids(scene, placed, rays, shape, chosen))
    return _over(layers, _sky(scene, placed, rays))


def _solids(scene: Scene, placed: Placed, rays: Rays, shape: Shape, chosen: Int[np.ndarray, "K"]) -> Layer:
    """Return the shapes of one kind."""
    sizes, colours = (jnp.asarray(one[chosen], jnp.float32) for one in (scene.sizes, scene.colours[:, :3]))

    def one(centre: Array, axes: Array, size: Array, colour: Array, opacity: Array) -> Layer:
        hit = shape(rays, centre, axes, size)
        # How light falls on a shape is worked out for its middle.
        towards, share = _shine(scene, placed, (centre[0], centre[1], centre[2]))
        bright = lit(scene, rays, hit.normal, towards, share)
        red, green, blue = (jnp.minimum(colour[c] * bright[c], 1.0) for c in range(3))
        return Layer(opacity * hit.cover, hit.depth, (red, green, blue))

    # A loop, not a vmap: what it returns is in memory. Otherwise XLA would work derivatives of coverage out again for
    # each shape that is compared with another.
    rows = placed.centres[chosen], placed.axes[chosen], sizes, colours, placed.opacity[chosen]
    return jax.lax.map(lambda row: jax.checkpoint(one, prevent_cse=False)(*row), rows)


def _shine(scene: Scene, placed: Placed, place: Vector) -> tuple[Vector | None, Float[Array, "..."]]:
    if scene.light is None or placed.lamp is None:
        return None, jnp.ones_like(place[0])
    return shine(scene.light, placed.lamp, place)


def _plane(scene: Scene, placed: Placed, rays: Rays, pixel: float, g: int) -> Layer:
    centre, axes = placed.centres[g], placed.axes[g]
    hit = flat.plane(rays, centre, axes, jnp.asarray(scene.sizes[g], jnp.float32), pixel)
    towards, share = _shine(scene, placed, (hit.depth * rays.x, hit.depth * rays.y, hit.depth))
    if scene.light is not None and placed.lamp is not None:
        share = share * (1 - shadow(scene.light, placed.lamp, placed.casters, centre, axes, rays, hit.depth))
    bright = lit(scene, rays, hit.normal, towards, share)
    first, second = scene.colours[g].tolist(), scene.seconds[g].tolist()
    if scene.tiles[g].all():
        board = flat.Board(tuple(scene.tiles[g].tolist()), tuple(scene.sizes[g, :2].tolist()))
        mix = flat.squares(rays, centre, axes, board, hit.depth, pixel)
        colour = [first[c] + (second[c] - first[c]) * mix for c in range(3)]
    else:
        colour = first
    red, green, blue = (jnp.minimum(colour[c] * bright[c], 1.0)[None] for c in range(3))
    return Layer((placed.opacity[g] * hit.cover)[None], hit.depth[None], (red, green, blue))


def _sky(scene: Scene, placed: Placed, rays: Rays) -> tuple[Map, Map, Map]:
    height = rays.dot(placed.up) / jnp.sqrt(rays.square)
    red, green, blue = (
        jnp.clip(sum(float(shade) * height**power for power, shade in enumerate(scene.sky[:, c])), 0, 1)
        for c in range(3)
    )
    return red, green, blue


def _over(layers: list[Layer], sky: tuple[Map, Map, Map]) -> tuple[Map, Map, Map]:
    """Lay shapes over one another: each is dimmed by all that are nearer, pixel by pixel."""
    if not layers:
        return sky
    layer = jax.tree.map(lambda *one: jnp.concatenate(one), *layers)
    order = 1 + _FIRST * np.arange(len(layer.depth))
    depth = layer.depth * jnp.asarray(order[:, None, None], jnp.float32)

    def dim(share: Stack, other: tuple[Map, Map]) -> tuple[Stack, None]:
        nearer, clear = other
        return share * jnp.where(nearer[None] < depth, clear[None], 1.0), None

    share, _ = jax.lax.scan(dim, layer.cover, (depth, 1 - layer.cover))
    left = jnp.maximum(1 - share.sum(axis=0), 0.0)
    red, green, blue = (left * one + (share * own).sum(axis=0) for one, own in zip(sky, layer.colours, strict=True))
    return red, green, blue
