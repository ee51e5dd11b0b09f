"""Where an episode starts: a robot low in the room, objects anywhere beside it, all at rest."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mbrl.core.types import PRNGKey
from mbrl.envs.boxes.engine import Motion, at_rest
from mbrl.envs.boxes.knobs import Knobs
from mbrl.envs.boxes.model import Model, solids_of
from mbrl.envs.boxes.motion import pose, turned
from mbrl.envs.boxes.scene import World

_TRIES = 8  # places that are drawn for an object, of which the first free one is taken
_LOW = 0.375  # of the room's height; objects beside a robot start below


class Start:
    """Draws first states of one world.

    Args:
        world: what there is.
        model: its numbers.
    """

    def __init__(self, world: World, model: Model) -> None:
        self.world, self.model = world, model

    @property
    def most(self) -> float:
        """The largest ``Knobs.size`` at which each body, and the robot, fits into the room by itself."""
        reaches = [self._reach(body) for body in range(self.model.robot, len(self.model.names))]
        reaches += [self.world.robot.bound] if self.world.robot else []
        return min(self.world.width, self.world.height) / 2 / max(reaches)

    def places(self, q: Float[Array, "Q"], knobs: Knobs) -> tuple[Array, Array, Array]:
        """Return x and y [m] and the angle [rad] of all bodies, each ``[N]``."""
        q = q[:, None]
        here = pose(self.model, q, turned(q), knobs.size[None])
        return here.x[:, 0], here.y[:, 0], q[self.model.angle, 0]

    def draw(self, key: PRNGKey, knobs: Knobs) -> Motion:
        """Return a first state."""
        robot_key, key = jax.random.split(key)
        taken, q = [], []
        if self.world.robot:
            part, x, y, reach = self._robot(robot_key, knobs.size)
            taken, q = [(x, y, reach)], [part]
        for body in range(self.model.robot, len(self.model.names)):
            key, place_key, angle_key = jax.random.split(key, 3)
            reach = self._reach(body) * knobs.size
            x, y = self._free(place_key, reach, taken)
            taken.append((x, y, reach))
            q.append(jnp.stack([x, y, jax.random.uniform(angle_key, (), jnp.float32, -np.pi, np.pi)]))
        coordinates = jnp.concatenate(q)
        return at_rest(self.model, coordinates)

    def _reach(self, body: int) -> float:
        """Return how far a body reaches from its centre [m]."""
        return max(
            solid.radius + float(np.hypot(*solid.vertices.T).max()) for solid in solids_of(self.model.solids, body))

    def _robot(self, key: PRNGKey, size: Float[Array, ""]) -> tuple[Array, Array, Array, Array]:
        """Return the robot's coordinates, where its root is, and how far it reaches from there."""
        robot = self.world.robot
        assert robot is not None
        place_key, angle_key = jax.random.split(key)
        reach = robot.bound * size
        x = jax.random.uniform(place_key, (), jnp.float32, reach, self.world.width - reach)
        turn = jax.random.uniform(angle_key, (), jnp.float32, -np.pi, np.pi) if robot.any_angle else jnp.float32(0)
        angles = [turn]
        names = [body.name for body in robot.bodies]
        for j, joint in enumerate(robot.joints):
            parent = angles[names.index(joint.parent)]
            angles.append(parent + np.float32(self.model.rest[j] + np.clip(0.0, *self.model.limits[j])))
        return jnp.stack([x, reach, *angles]), x, reach, reach

    def _free(self, key: PRNGKey, reach: Float[Array, ""], taken: list) -> tuple[Array, Array]:
        """Return a place where nothing is yet, or the freest of those drawn."""
        x_key, y_key = jax.random.split(key)
        top = self.world.height * (_LOW if self.world.robot else 1.0)
        x = jax.random.uniform(x_key, (_TRIES,), jnp.float32, reach, self.world.width - reach)
        y = jax.random.uniform(y_key, (_TRIES,), jnp.float32, reach, jnp.maximum(top, 2 * reach) - reach)
        room = jnp.full((_TRIES,), jnp.inf)
        for other_x, other_y, other_reach in taken:
            room = jnp.minimum(room, jnp.hypot(x - other_x, y - other_y) - reach - other_reach)
        # The first of the free ones, so that being far from others is not favoured.
        best = jnp.argmax(jnp.where(room > 0, 1e3 - jnp.arange(_TRIES), room))
        return x[best], y[best]
