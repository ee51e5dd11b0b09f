"""How bright surfaces are, as in MuJoCo: ambient light, a lamp on the camera, one more light, and its shadows."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mbrl.envs.render.scene import KINDS, Light, Scene
from mbrl.envs.render.shapes import Map, Point, Rays, Rotation, Vector, root

Colours: TypeAlias = tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]

_PENUMBRA = 0.15  # how soft a shadow's edge is, as a share of what casts it
_SLANT = 0.05  # the least cosine at which light falls on a plane for a shadow to be drawn


class Lamp(NamedTuple):
    """The scene's light in the camera's frame."""

    place: Point
    ahead: Point  # where it shines


class Casters(NamedTuple):
    """C shapes taken for capsules in the camera's frame."""

    centres: Float[Array, "C 3"]
    arms: Float[Array, "C 3"]  # from the middle to an end
    radii: Float[np.ndarray, "C"]
    opacity: Float[Array, "C"]


def casters(
    scene: Scene, centres: Float[Array, "G 3"], axes: Float[Array, "G 3 3"], opacity: Float[Array, "G"]
) -> Casters:
    """Return what casts shadows: all that is opaque and no plane, with the segment along its longest side."""
    shadows = scene.light is not None and scene.light.shadows
    solid = (scene.kinds != KINDS.index("plane")) & (scene.colours[:, 3] > 0.5) & shadows
    chosen = np.flatnonzero(solid).tolist()
    arms = [_arm(KINDS[scene.kinds[g]], scene.sizes[g]) for g in chosen]
    which = np.array([arm[0] for arm in arms], int)
    halves, radii = (np.array([arm[i] for arm in arms], np.float32) for i in (1, 2))
    index = np.array(chosen, int)
    return Casters(centres[index], axes[index, :, which] * halves[:, None], radii, opacity[index])


def _arm(kind: str, size: Float[np.ndarray, "3"]) -> tuple[int, float, float]:
    """Return the longest axis of a shape, the half length of the segment along it, and the radius around that."""
    if kind == "sphere":
        return 2, 0.0, float(size[0])
    if kind in ("capsule", "cylinder"):
        return 2, float(size[1]), float(size[0])
    radius = np.sort(size)[:2].mean()
    return int(np.argmax(size)), float(max(size.max() - radius, 0.0)), float(radius)


def shine(light: Light, lamp: Lamp, place: Vector) -> tuple[Vector, Float[Array, "..."]]:
    """Return the unit vector from a place towards the light, and how much of it arrives there."""
    if light.endless:
        return (-lamp.ahead[0], -lamp.ahead[1], -lamp.ahead[2]), jnp.ones_like(place[0])
    x, y, z = (lamp.place[i] - place[i] for i in range(3))
    scale = 1 / root(x * x + y * y + z * z)
    x, y, z = x * scale, y * scale, z * scale
    cosine = -(x * lamp.ahead[0] + y * lamp.ahead[1] + z * lamp.ahead[2])
    power = int(light.exponent) if light.exponent.is_integer() else light.exponent
    return (x, y, z), jnp.where(cosine > light.cutoff, jnp.maximum(cosine, 1e-3) ** power, 0.0)


def lit(
    scene: Scene, rays: Rays, normal: Vector, towards: Vector | None, share: Float[Array, "..."]
) -> Colours:
    """Return how bright a surface of colour 1 is in red, green and blue.

    Args:
        scene: for the colours of its lights.
        rays: of the camera.
        normal: of the surface, a unit vector.
        towards: a unit vector towards the light, if there is one.
        share: how much of that light arrives.
    """
    facing = -(rays.x * normal[0] + rays.y * normal[1] + normal[2]) / jnp.sqrt(rays.square)
    facing = jnp.clip(facing, 0, 1)
    if towards is None or scene.light is None:
        red, green, blue = (float(scene.ambient[c]) + float(scene.headlight[c]) * facing for c in range(3))
        return red, green, blue
    slope = share * jnp.clip(normal[0] * towards[0] + normal[1] * towards[1] + normal[2] * towards[2], 0, 1)
    red, green, blue = (
        float(scene.ambient[c]) + float(scene.headlight[c]) * facing + float(scene.light.colour[c]) * slope
        for c in range(3)
    )
    return red, green, blue


def shadow(
    light: Light, lamp: Lamp, shapes: Casters, centre: Point, axes: Rotation, rays: Rays, depth: Map
) -> Map:
    """Return the share of the light that shapes keep off a plane.

    The ends of each shape are projected onto the plane along the light; the shadow is all within its radius of the
    segment between them, which is wider where the light is near.

    Args:
        light: which light.
        lamp: where it is.
        shapes: what casts shadows.
        centre: of the plane.
        axes: of the plane, columns; the third is its normal.
        rays: of the camera.
        depth: where the plane is along each ray.
    """
    if len(shapes.radii) == 0:
        return jnp.zeros_like(depth)
    spot = [depth * rays.dot(axes[:, i]) - centre @ axes[:, i] for i in range(2)]
    blur = depth * rays.blur / root(jnp.abs(rays.dot(axes[:, 2])) + 1e-2)
    middles, arms = (shapes.centres - centre[None]) @ axes, shapes.arms @ axes
    place, ahead = (lamp.place - centre) @ axes, lamp.ahead @ axes

    def project(point: Point) -> tuple[Float[Array, "2"], Float[Array, ""]]:
        if light.endless:
            return point[:2] - ahead[:2] * point[2] / jnp.minimum(ahead[2], -_SLANT), jnp.float32(1)
        grown = place[2] / jnp.maximum(place[2] - point[2], _SLANT)
        return place[:2] + (point[:2] - place[:2]) * grown, grown

    def one(middle: Point, arm: Point, radius: Float[Array, ""], opacity: Float[Array, ""]) -> Map:
        (start, _), (end, _), (_, grown) = project(middle - arm), project(middle + arm), project(middle)
        radius = radius * grown
        x, y, along = spot[0] - start[0], spot[1] - start[1], end - start
        share = jnp.clip((x * along[0] + y * along[1]) / (along @ along + 1e-9), 0, 1)
        x, y = x - share * along[0], y - share * along[1]
        apart, soft = root(x * x + y * y), blur + _PENUMBRA * radius
        dark = jnp.clip((radius - apart) / soft + 0.5, 0, 1) - jnp.clip((-radius - apart) / soft + 0.5, 0, 1)
        between = (middle[2] > -radius) & (light.endless | (middle[2] < place[2]))
        return jnp.where(between, opacity * dark, 0.0)

    return jax.vmap(one)(middles, arms, jnp.asarray(shapes.radii), shapes.opacity).max(axis=0)
