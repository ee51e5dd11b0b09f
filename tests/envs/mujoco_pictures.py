"""MuJoCo's own pictures, drawn in a process of their own: the graphics library is chosen on import.

Usage: mujoco_pictures.py FOLDER, which holds jobs.json; leaves pictures.npz there. It exits with 77 where there is no
graphics library.
"""

import json
import os
import sys
from pathlib import Path

os.environ["MUJOCO_GL"] = "egl"
import numpy as np

NO_GRAPHICS = 77

try:
    import mujoco

    mujoco.GLContext(8, 8).make_current()
except Exception as error:  # noqa: BLE001 - whatever a missing driver makes EGL and its bindings raise
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(NO_GRAPHICS)


def free(place):
    """A camera that belongs to nothing."""
    camera = mujoco.MjvCamera()
    camera.lookat[:] = place["lookat"]
    camera.distance, camera.azimuth, camera.elevation = (place[key] for key in ("distance", "azimuth", "elevation"))
    return camera


def picture(job, folder):
    model = mujoco.MjModel.from_binary_path(str(folder / job["model"]))
    data = mujoco.MjData(model)
    data.qpos[:] = job["qpos"]
    mujoco.mj_forward(model, data)
    camera = job["camera"] if isinstance(job["camera"], str) else free(job["camera"])
    with mujoco.Renderer(model, job["size"], job["size"]) as renderer:
        renderer.update_scene(data, camera=camera)
        colours = renderer.render().copy()
        renderer.enable_segmentation_rendering()
        renderer.update_scene(data, camera=camera)
        ids, kinds = np.moveaxis(renderer.render(), -1, 0)
    planes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
    return colours, (kinds == mujoco.mjtObj.mjOBJ_GEOM) & ~np.isin(ids, planes)


def main(folder):
    found = {}
    for job in json.loads((folder / "jobs.json").read_text()):
        found[job["name"]], found[f"{job['name']}_shape"] = picture(job, folder)
    np.savez(folder / "pictures.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
