"""Small models to draw, and what is seen of them without light."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from mbrl.envs.render import camera as cameras
from mbrl.envs.render.picture import draw
from mbrl.envs.render.scene import read

EYE = '<camera name="eye" pos="0 0 4" fovy="45"/>'  # looks down at the origin, x right and y up


def model(geoms, cameras=EYE, assets="", light=""):
    """A model with one free body for each geom, and what belongs to the world."""
    bodies = "".join(f'<body><freejoint/>{geom}</body>' for geom in geoms)
    return mujoco.MjModel.from_xml_string(
        f"<mujoco><asset>{assets}</asset><worldbody>{light}{cameras}{bodies}</worldbody></mujoco>"
    )


def world(inside, assets=""):
    return mujoco.MjModel.from_xml_string(
        f"<mujoco><asset>{assets}</asset><worldbody>{EYE}{inside}</worldbody></mujoco>"
    )


def scene(mj_model, camera="eye", flat=True):
    """What is drawn; if ``flat`` every shape has its own colour, unlit, before black."""
    found = read(mj_model, cameras.of_model(mj_model, camera))
    if not flat:
        return found
    dark = np.zeros(3)
    return found._replace(ambient=np.ones(3), headlight=dark, light=None, sky=np.zeros_like(found.sky))


def rest(mj_model):
    """Positions and rotations of all bodies at rest."""
    data = mujoco.MjData(mj_model)
    mujoco.mj_forward(mj_model, data)
    return jnp.asarray(data.xpos, jnp.float32), jnp.asarray(data.xquat, jnp.float32)


def drawing(found, size=32):
    """A compiled function from positions and rotations to a picture."""
    return jax.jit(lambda positions, rotations: draw(found, positions, rotations, size, size))


def pixels_per_unit(size=32, fovy=45.0):
    """How many pixels a unit of the picture's plane at depth 1 is."""
    return size / (2 * np.tan(np.radians(fovy) / 2))
