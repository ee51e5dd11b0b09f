"""Pictures of what the physics does, drawn in JAX: batched, jitted and differentiable."""

from mbrl.envs.render.make import make_render, make_scene, poses
from mbrl.envs.render.picture import draw, to_bytes
from mbrl.envs.render.scene import Scene

__all__ = ["Scene", "draw", "make_render", "make_scene", "poses", "to_bytes"]
