"""One control step of a world: short substeps, each with two solves of the contacts.

A substep of length h has the velocity v at its start and v* after h of all forces but those of contacts. Motors pull
with ``gain`` (u speed - rate); as that is stiff it is taken at the end of the substep: M becomes M + h gain d d^T.

1. Positions move with a velocity that starts from (v + v*) / 2, so that free fall is exact, and that no contact lets
   close more than its gap; so bodies arrive at each other's surface, and what overlaps is eased apart.
2. The velocity itself starts from v*; contacts that bore a load in 1 stop it, or throw it back with restitution e times
   the speed at the surface, which is sqrt(c^2 + 2 a gap) for a closing speed c that grows by a: that keeps the energy.

Both are solved by projected Gauss-Seidel over the contacts, each first along its tangent and then along its normal
(Catto, "Iterative dynamics with temporal coherence", 2005), with an impulse that pushes only, and with friction of at
most mu times that. Joints need no rows, for coordinates cannot leave them (model.py), so few sweeps do.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from mbrl.envs.boxes import contacts, motion
from mbrl.envs.boxes.contacts import Contacts
from mbrl.envs.boxes.knobs import Knobs
from mbrl.envs.boxes.model import Model
from mbrl.envs.boxes.polygons import FAR

STEP = 0.1  # s, of one control step: ten a second
_SUBSTEPS = 6
_SWEEPS = (4, 5)  # of the two solves
_SLOP = 0.005  # m or rad that an overlap may keep
_EASE = 0.2  # of the rest that goes in a substep
_EASE_SPEED = 2.0  # m / s or rad / s at most
_BOUNCE_SPEED = 0.5  # m / s below which nothing is thrown back


class Motion(NamedTuple):
    """What changes: coordinates and their velocities; ``[Q]``, and with a batch ``[Q, B]``."""

    q: Float[Array, "Q *B"]  # m and rad
    v: Float[Array, "Q *B"]  # m / s and rad / s


class _Rows(NamedTuple):
    """Contacts and what their impulses do."""

    contacts: Contacts
    push: Float[Array, "K Q B"]  # M^-1 normal
    drag: Float[Array, "K Q B"]  # M^-1 tangent
    normal_mass: Float[Array, "K B"]
    tangent_mass: Float[Array, "K B"]


def advance(model: Model, room: tuple[float, float]):
    """Return the function of one control step, ``(motion, command [J], knobs, disc [N]) -> motion``.

    It is written for one world and can be vmapped, jitted and differentiated. Inside, the batch is the last axis of
    every array, which is what vectorises on a CPU: a vmap puts it there and back.
    """

    def batched(motion: Motion, command: Array, knobs: Knobs, disc: Array) -> Motion:
        substep = lambda _, motion: _substep(model, room, motion, command, knobs, disc)
        return jax.lax.fori_loop(0, _SUBSTEPS, substep, motion)

    return batch_last(batched)


def batch_last(function):
    """Return ``function``, whose arrays all have the batch as their last axis, as one of a single world.

    Under ``vmap`` it is called with the whole batch.
    """

    @custom_vmap
    def single(*args):
        return jax.tree.map(lambda x: x[..., 0], function(*jax.tree.map(lambda x: x[..., None], args)))

    @single.def_vmap
    def many(size, batched, *args):
        move = lambda x, has: jnp.moveaxis(x, 0, -1) if has else jnp.broadcast_to(x[..., None], (*x.shape, size))
        out = function(*jax.tree.map(move, args, tuple(batched)))
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), out), jax.tree.map(lambda _: True, out)

    return single


def _substep(
    model: Model, room: tuple[float, float], motion_: Motion, command: Array, knobs: Knobs, disc: Array
) -> Motion:
    h = STEP / _SUBSTEPS
    q, v = motion_
    pose = motion.pose(model, q, knobs.size)
    rows, free = _prepare(model, room, pose, motion_, command, knobs, disc)
    gap = rows.contacts.gap
    ease = jnp.minimum(_EASE / h * jnp.maximum(-gap - _SLOP, 0.0), _EASE_SPEED)
    mean, load = _solve(rows, (v + free) / 2, jnp.where(gap > 0, -gap / h, ease), _SWEEPS[0])
    closing, then = (-(rows.contacts.normal * u[None]).sum(1) for u in (v, free))
    square = closing * jnp.abs(closing) + 2 * jnp.maximum(gap, 0.0) * (then - closing) / h
    arrival = jnp.sqrt(jnp.maximum(square, 1e-12))
    thrown = jnp.where(arrival > _BOUNCE_SPEED, rows.contacts.restitution * arrival, 0.0)
    after, _ = _solve(rows, free, jnp.where(load > 0, thrown, -FAR), _SWEEPS[1])
    return Motion(q + h * mean, after)


def _prepare(
    model: Model, room: tuple[float, float], pose: motion.Pose, motion_: Motion, command: Array, knobs: Knobs,
    disc: Array,
) -> tuple[_Rows, Array]:
    """Return the rows of all contacts, and the velocity without them."""
    h = STEP / _SUBSTEPS
    q, v = motion_
    weights = motion.weights(model, knobs, disc)
    pull = motion.forces(model, pose, weights, knobs, v)
    mass = motion.mass_matrix(model, pose, weights)
    if len(model.gain):
        servo = (model.gain[:, None, None] * model.difference[:, :, None] * model.difference[:, None]).sum(0)
        mass = mass + constant(h * servo, 3)
        wanted = constant(model.gain * model.speed, 2) * command
        pull = pull + (constant(model.difference, 3) * wanted[:, None]).sum(0)
        pull = pull - (constant(servo, 3) * v[None]).sum(1)
    inverse = motion.inverse(mass)
    free = (v + h * motion.product(inverse, pull)) * constant(1 / (1 + h * _damping(model)), 2)
    found = contacts.find(model, room, pose, knobs, disc, q)
    push, drag = motion.product(inverse, found.normal), motion.product(inverse, found.tangent)
    normal, tangent = (found.normal * push).sum(1), (found.tangent * drag).sum(1)
    return _Rows(found, push, drag, 1 / (normal + 1e-9), jnp.where(tangent > 0, 1 / (tangent + 1e-9), 0.0)), free


def _damping(model: Model) -> np.ndarray:
    """Return each coordinate's damping [1 / s], ``[Q]``."""
    damping = np.zeros(model.position.shape[1])
    damping[model.angle] = model.angular_damping
    for root in model.roots:
        damping[model.angle[root] - 2 : model.angle[root]] = model.linear_damping[root]
    return damping


def _solve(rows: _Rows, v: Array, target: Array, sweeps: int) -> tuple[Array, Array]:
    """Return the velocity with all contacts, and their normal impulses ``[K, B]``.

    Args:
        rows: of the contacts.
        v: ``[Q, B]`` without them.
        target: ``[K, B]``, the least normal velocity.
        sweeps: over all contacts.
    """
    found = rows.contacts
    count = found.gap.shape[0]
    rubs = [bool(x) for x in [True] * count]

    def sweep(_, carry):
        v, normal, tangent = carry[0], list(carry[1]), list(carry[2])
        for k in range(count):
            if rubs[k]:
                slip = (found.tangent[k] * v).sum(0)
                most = found.friction[k] * normal[k]
                impulse = jnp.clip(tangent[k] - rows.tangent_mass[k] * slip, -most, most)
                v, tangent[k] = v + rows.drag[k] * (impulse - tangent[k])[None], impulse
            lack = target[k] - (found.normal[k] * v).sum(0)
            impulse = jnp.maximum(normal[k] + rows.normal_mass[k] * lack, 0.0)
            v, normal[k] = v + rows.push[k] * (impulse - normal[k])[None], impulse
        return v, tuple(normal), tuple(tangent)

    nothing = (jnp.zeros_like(target[0]),) * count
    v, normal, _ = jax.lax.fori_loop(0, sweeps, sweep, (v, nothing, nothing))
    return v, jnp.stack(normal)


constant = motion.constant
