"""Env steps a second of jax2d 1.0.2 on two scenes like the box worlds, undrawn; prints one JSON line each.

Needs `pip install jax2d` and nothing of this project. Its static sizes are as small as the scenes allow; two circles
are the fewest it takes.
"""

import argparse
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax2d.engine import PhysicsEngine, create_empty_sim
from jax2d.scene import add_circle_to_scene, add_rectangle_to_scene, add_revolute_joint_to_scene
from jax2d.sim_state import SimParams, StaticSimParams

BATCH, STEPS = 256, 10


def scene(robot: bool, iterations: int) -> tuple:
    """Return the static sizes and the state of a box, or of a ball with three motorised legs, between four walls."""
    sizes = StaticSimParams(
        num_polygons=7 if robot else 5, num_circles=2, num_joints=3 if robot else 1, num_thrusters=1,
        max_polygon_vertices=4, num_solver_iterations=iterations, solver_batch_size=4)
    state = create_empty_sim(sizes, floor_offset=0.0, scene_size=5)
    if not robot:
        place, size = jnp.array([2.5, 3.0]), jnp.array([1.4, 1.4])
        return sizes, add_rectangle_to_scene(state, sizes, place, size, rotation=0.3, density=0.1)[0]
    centre, leg = jnp.array([2.5, 2.0]), jnp.array([8 / 30, 40 / 30])
    state, (_, root) = add_circle_to_scene(state, sizes, centre, 0.213)
    for angle in (0.0, 2.0, 4.2):
        place = centre + jnp.array([jnp.sin(angle), -jnp.cos(angle)]) * leg[1] / 2
        state, (_, body) = add_rectangle_to_scene(state, sizes, place, leg, rotation=angle)
        state, _ = add_revolute_joint_to_scene(
            state, sizes, root, body, jnp.zeros(2), jnp.array([0, leg[1] / 2]), motor_on=True, has_joint_limits=True,
            min_rotation=angle - 1, max_rotation=angle + 1)
    return sizes, state


def rate(robot: bool, substeps: int, iterations: int) -> float:
    """Return the control steps a second of `BATCH` scenes side by side, with random actions."""
    sizes, state = scene(robot, iterations)
    engine, params = PhysicsEngine(sizes), SimParams(dt=0.1 / substeps)

    def control(state: Any, action: jax.Array) -> Any:
        substep = lambda state, _: (engine.step(state, params, action)[0], None)
        return jax.lax.scan(substep, state, None, length=substeps)[0]

    @jax.jit
    def run(states: Any, key: jax.Array) -> Any:
        draw = lambda key: jax.random.uniform(key, (BATCH, sizes.num_joints + sizes.num_thrusters), minval=-1)
        step = lambda states, key: (jax.vmap(control)(states, draw(key)), None)
        return jax.lax.scan(step, states, jax.random.split(key, STEPS))[0]

    states = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], BATCH, 0), state)
    states = jax.block_until_ready(run(states, jax.random.key(0)))
    begin = time.perf_counter()
    jax.block_until_ready(run(states, jax.random.key(1)))
    return BATCH * STEPS / (time.perf_counter() - begin)


def main() -> None:
    """Time both scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--substeps", type=int, default=3, help="in a control step of 0.1 s")
    parser.add_argument("--iterations", type=int, default=4, help="of its solver in a substep")
    options = parser.parse_args()
    for name in ("dropbox", "urchin"):
        found = rate(name == "urchin", options.substeps, options.iterations)
        sys.stdout.write(json.dumps({"scene": name, "steps_per_s": round(found)} | vars(options)) + "\n")


if __name__ == "__main__":
    main()
