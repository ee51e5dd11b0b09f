"""Where the bodies are, how they move with the coordinates, and how forces move those: M(q) qdd = forces."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mbrl.envs.boxes.knobs import Knobs
from mbrl.envs.boxes.model import Model


class Pose(NamedTuple):
    """The bodies as the coordinates have them; N bodies, Q coordinates, B batch."""

    x: Float[Array, "N B"]  # m, of the centre of mass
    y: Float[Array, "N B"]
    cos: Float[Array, "N B"]
    sin: Float[Array, "N B"]
    jacobian_x: Float[Array, "N Q B"]  # of x by the coordinates
    jacobian_y: Float[Array, "N Q B"]


class Turn(NamedTuple):
    """Cosine and sine of every coordinate, of which those of angles mean something."""

    cos: Float[Array, "Q B"]
    sin: Float[Array, "Q B"]


class Weights(NamedTuple):
    """The masses of an episode."""

    mass: Float[Array, "N B"]  # kg
    inertia: Float[Array, "N B"]  # kg m^2


def constant(values: np.ndarray, rank: int) -> Float[Array, "..."]:
    """Return ``values`` with new last axes, ``rank`` axes in all."""
    return jnp.asarray(values.reshape(values.shape + (1,) * (rank - values.ndim)), jnp.float32)


def total(array: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Return the sum over a short axis, written out: XLA's own reductions on a CPU do not vectorise over the batch."""
    parts = [jax.lax.index_in_dim(array, i, axis, keepdims=False) for i in range(array.shape[axis])]
    return functools.reduce(jnp.add, parts)


def rows(array: Float[Array, "N ..."], indices: np.ndarray) -> Float[Array, "K ..."]:
    """Return ``array[indices]`` by slices, which fuse; XLA's gather on a CPU does not vectorise."""
    if (np.diff(indices) == 1).all():
        return array[indices[0] : indices[-1] + 1]
    return jnp.concatenate([array[i : i + 1] for i in indices.tolist()])


def turned(q: Float[Array, "Q B"]) -> Turn:
    """Return what ``pose`` needs of the angles."""
    return Turn(jnp.cos(q), jnp.sin(q))


def pose(model: Model, q: Float[Array, "Q B"], turn: Turn, size: Float[Array, "B"]) -> Pose:
    """Return where the bodies are, all of them ``size`` times as large as they were defined."""
    cos, sin = turn
    lever = constant(model.lever, 4) * size[None, None, None]
    right = cos[None] * lever[:, :, 0] - sin[None] * lever[:, :, 1]
    up = sin[None] * lever[:, :, 0] + cos[None] * lever[:, :, 1]
    at_x = constant(model.position, 3)
    at_y = constant(np.roll(model.position, 1, axis=1), 3)
    return Pose(
        x=total(at_x * q[None] + right, 1),
        y=total(at_y * q[None] + up, 1),
        cos=rows(cos, model.angle),
        sin=rows(sin, model.angle),
        jacobian_x=at_x - up,
        jacobian_y=at_y + right,
    )


def weights(model: Model, knobs: Knobs, disc: Float[Array, "N B"]) -> Weights:
    """Return the masses; ``disc`` is 1 where a circle stands in a box's place and 0 elsewhere."""
    mass, inertia = (
        constant(box, 2) + disc * constant(round_ - box, 2)
        for box, round_ in ((model.mass, model.circle_mass), (model.inertia, model.circle_inertia))
    )
    mass = mass * (knobs.density * knobs.size**2)[None]
    return Weights(mass, inertia * (knobs.density * knobs.size**4)[None])


def mass_matrix(model: Model, pose: Pose, weights: Weights) -> Float[Array, "Q Q B"]:
    """Return M, which is sum_i m_i J_i^T J_i + I_i e_i e_i^T."""
    heavy = weights.mass[:, None]
    squares = [
        total((jacobian * heavy)[:, :, None] * jacobian[:, None], 0) for jacobian in (pose.jacobian_x, pose.jacobian_y)
    ]
    own = np.eye(model.position.shape[1])[model.angle]
    turning = total(constant(own[:, :, None] * own[:, None], 4) * weights.inertia[:, None, None], 0)
    return squares[0] + squares[1] + turning


def forces(
    model: Model, pose: Pose, weights: Weights, knobs: Knobs, v: Float[Array, "Q B"]
) -> Float[Array, "Q B"]:
    """Return the generalised forces of gravity, wind and of arms that turn (the centrifugal force)."""
    turning = (v * constant(_is_angle(model), 2)) ** 2
    # The second derivative of R(phi) d is phi'' times its derivative, less phi'^2 R(phi) d.
    arm_x, arm_y = pose.jacobian_y, -pose.jacobian_x
    pull_x, pull_y = (total(arm * turning[None], 1) for arm in (arm_x, arm_y))
    force_x = weights.mass * ((knobs.wind / knobs.density)[None] + pull_x)
    force_y = weights.mass * (pull_y - knobs.gravity[None])
    return total(pose.jacobian_x * force_x[:, None] + pose.jacobian_y * force_y[:, None], 0)


def _is_angle(model: Model) -> np.ndarray:
    mask = np.zeros(model.position.shape[1])
    mask[model.angle] = 1
    return mask


def inverse(matrix: Float[Array, "Q Q B"]) -> Float[Array, "Q Q B"]:
    """Return the inverse of a symmetric, positive definite matrix by sweeping its pivots in turn (Beaton, 1964).

    As whole-array operations with the batch last it vectorises over the batch, which LAPACK's batched routines on
    matrices this small do not.
    """
    size = matrix.shape[0]
    for k in range(size):
        own = np.zeros(size)
        own[k] = 1
        here, other = constant(own, 2), constant(1 - own, 2)
        pivot = 1 / matrix[k, k]
        row = matrix[k] * pivot[None]
        swept = matrix - matrix[:, k][:, None] * row[None]
        inside = (other[:, None] * other[None]) * swept
        border = (here[:, None] * other[None]) * row[None] + (other[:, None] * here[None]) * row[:, None]
        matrix = inside + border - (here[:, None] * here[None]) * pivot[None, None]
    return -matrix


def product(matrix: Float[Array, "Q Q B"], vectors: Float[Array, "... Q B"]) -> Float[Array, "... Q B"]:
    """Return ``matrix`` times each vector."""
    lead = (1,) * (vectors.ndim - 2)
    columns = [matrix[:, i].reshape(*lead, *matrix[:, i].shape) for i in range(matrix.shape[0])]
    return functools.reduce(jnp.add, [column * vectors[..., i, None, :] for i, column in enumerate(columns)])
