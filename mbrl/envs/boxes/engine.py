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

from collections.abc import Callable
from typing import Any, NamedTuple

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

constant = motion.constant

STEP = 0.1  # s, of one control step: ten a second
_SUBSTEPS = 4
_SWEEPS = (2, 3)  # of the two solves
_SLOP = 0.005  # m or rad that an overlap may keep
_EASE = 0.2  # of the rest that goes in a substep
_EASE_SPEED = 2.0  # m / s or rad / s at most
_TINY = 1e-9
_BOUNCE_SPEED = 0.5  # m / s below which nothing is thrown back


class Motion(NamedTuple):
    """What changes: coordinates, their velocities, and what the contacts bear, from which the solver starts.

    ``[Q]`` and ``[L]``; with a batch ``[Q, B]`` and ``[L, B]``.
    """

    q: Float[Array, "Q *B"]  # m and rad
    v: Float[Array, "Q *B"]  # m / s and rad / s
    load: Float[Array, "L *B"]  # N s and N m s, a substep's impulses: all normal ones, then all tangential ones


class _Rows(NamedTuple):
    """Contacts and what their impulses do."""

    contacts: Contacts
    push: Float[Array, "K Q B"]  # M^-1 normal
    drag: Float[Array, "K Q B"] | None  # M^-1 tangent
    normal_mass: Float[Array, "K B"]
    tangent_mass: Float[Array, "K B"] | None


def advance(model: Model, room: tuple[float, float]) -> Callable[[Motion, Array, Knobs, Array], Motion]:
    """Return the function of one control step, ``(motion, command [J], knobs, disc [N]) -> motion``.

    It is written for one world and can be vmapped, jitted and differentiated. Inside, the batch is the last axis of
    every array, which is what vectorises on a CPU: a vmap puts it there and back.
    """

    def batched(start: Motion, command: Array, knobs: Knobs, disc: Array) -> Motion:
        # Cosines go from substep to substep, for a loop's arrays are stored: XLA would work them out anew at each use.
        substep = lambda i, carry: _substep(model, room, i, carry[0], carry[1], command, knobs, disc)
        return jax.lax.fori_loop(0, _SUBSTEPS, substep, (start, motion.turned(start.q)))[0]

    return batch_last(batched)


def at_rest(model: Model, q: Float[Array, "Q"]) -> Motion:
    """Return the bodies at coordinates ``q`` without velocity or load."""
    return Motion(q, jnp.zeros_like(q), jnp.zeros(2 * contacts.count(model)))


def batch_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function``, whose arrays all have the batch as their last axis, as one of a single world.

    Under ``vmap`` it is called with the whole batch.
    """

    def plain(*args: Any) -> Any:
        return jax.tree.map(lambda x: x[..., 0], function(*jax.tree.map(lambda x: x[..., None], args)))

    single = custom_vmap(plain)

    @single.def_vmap
    def many(size: int, batched: Any, *args: Any) -> Any:
        move = lambda x, has: jnp.moveaxis(x, 0, -1) if has else jnp.broadcast_to(x[..., None], (*x.shape, size))
        out = function(*jax.tree.map(move, args, tuple(batched)))
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), out), jax.tree.map(lambda _: True, out)

    @jax.custom_jvp
    def differentiable(*args: Any) -> Any:
        return single(*args)

    # What has a rule for vmap of its own has no transpose; its plain form has one.
    @differentiable.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(plain, primals, tangents)

    return differentiable


def _substep(
    model: Model, room: tuple[float, float], i: Array, start: Motion, turn: motion.Turn, command: Array, knobs: Knobs,
    disc: Array,
) -> tuple[Motion, motion.Turn]:
    h = STEP / _SUBSTEPS
    q, v, load = start
    pose = motion.pose(model, q, turn, knobs.size)
    found = _stored(i, lambda: contacts.find(model, room, pose, knobs, disc, q))
    groups, free = _stored(i, lambda: _prepare(model, pose, start, command, knobs, disc, found))
    aims = [jnp.where(rows.contacts.gap > 0, -rows.contacts.gap / h, _ease(rows.contacts.gap)) for rows in groups]
    # The first solve is of half a substep's forces.
    mean, half = _solve(groups, (v + free) / 2, load / 2, aims, _SWEEPS[0])
    ends = np.cumsum([aim.shape[0] for aim in aims]).tolist()
    bears = zip(groups, jnp.split(half[: ends[-1]] > 0, ends[:-1]), strict=True)
    aims = [jnp.where(bear, _thrown(rows.contacts, v, free), -FAR) for rows, bear in bears]
    after, load = _solve(groups, free, 2 * half, aims, _SWEEPS[1])
    q = q + h * mean
    return Motion(q, after, load), motion.turned(q)


def _stored(i: Array, function: Callable[[], Any]) -> Any:
    """Return what ``function`` returns, stored.

    XLA on a CPU would rather work an intermediate result out anew at each of its uses, which takes several times as
    long here; it fuses nothing across a condition, even one that always holds, as that on a loop's counter ``i``.
    """
    shapes = jax.eval_shape(function)
    nothing = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.cond(i < _SUBSTEPS, function, nothing)


def _ease(gap: Float[Array, "K B"]) -> Float[Array, "K B"]:
    """Return how fast what overlaps is moved apart."""
    return jnp.minimum(_EASE * _SUBSTEPS / STEP * jnp.maximum(-gap - _SLOP, 0.0), _EASE_SPEED)


def _thrown(found: Contacts, v: Float[Array, "Q B"], free: Float[Array, "Q B"]) -> Float[Array, "K B"]:
    """Return with what normal velocity a contact that bears a load leaves the substep."""
    closing, then = (-motion.total(found.normal * u[None], 1) for u in (v, free))
    square = closing * jnp.abs(closing) + 2 * jnp.maximum(found.gap, 0.0) * (then - closing) * _SUBSTEPS / STEP
    arrival = jnp.sqrt(jnp.maximum(square, 1e-12))
    return jnp.where(arrival > _BOUNCE_SPEED, found.restitution * arrival, 0.0)


def _prepare(
    model: Model, pose: motion.Pose, start: Motion, command: Array, knobs: Knobs, disc: Array, found: list[Contacts]
) -> tuple[list[_Rows], Array]:
    """Return the rows of all contacts, and the velocity without them."""
    h = STEP / _SUBSTEPS
    v = start.v
    weights = motion.weights(model, knobs, disc)
    pull = motion.forces(model, pose, weights, knobs, v)
    mass = motion.mass_matrix(model, pose, weights)
    if len(model.gain):
        servo = (model.gain[:, None, None] * model.difference[:, :, None] * model.difference[:, None]).sum(0)
        mass = mass + constant(h * servo, 3)
        wanted = constant(model.gain * model.speed, 2) * command
        pull = pull + motion.total(constant(model.difference, 3) * wanted[:, None], 0)
        pull = pull - motion.total(constant(servo, 3) * v[None], 1)
    inverse = motion.inverse(mass)
    free = (v + h * motion.product(inverse, pull)) * constant(1 / (1 + h * _damping(model)), 2)
    return [_weigh(inverse, contact) for contact in found], free


def _weigh(inverse: Float[Array, "Q Q B"], found: Contacts) -> _Rows:
    """Return the rows of contacts with what their impulses do."""
    push = motion.product(inverse, found.normal)
    normal_mass = 1 / (motion.total(found.normal * push, 1) + _TINY)
    if found.tangent is None:
        return _Rows(found, push, None, normal_mass, None)
    drag = motion.product(inverse, found.tangent)
    return _Rows(found, push, drag, normal_mass, 1 / (motion.total(found.tangent * drag, 1) + _TINY))


def _damping(model: Model) -> np.ndarray:
    """Return each coordinate's damping [1 / s], ``[Q]``."""
    damping = np.zeros(model.position.shape[1])
    damping[model.angle] = model.angular_damping
    for root in model.roots:
        damping[model.angle[root] - 2 : model.angle[root]] = model.linear_damping[root]
    return damping


def _solve(groups: list[_Rows], v: Array, load: Array, aims: list[Array], sweeps: int) -> tuple[Array, Array]:
    """Return the velocity with all contacts, and their impulses ``[L, B]``.

    Args:
        groups: the rows.
        v: ``[Q, B]`` without contacts.
        load: ``[L, B]`` impulses to begin with.
        aims: for each group ``[K, B]``, the least normal velocity.
        sweeps: over all contacts.
    """
    order = [(g, k) for g, aim in enumerate(aims) for k in range(aim.shape[0])]
    normal, tangent = [load[i] for i in range(len(order))], [load[len(order) + i] for i in range(len(order))]
    for i, (g, k) in enumerate(order):
        v = v + groups[g].push[k] * normal[i][None]
        drag = groups[g].drag
        if drag is not None:
            v = v + drag[k] * tangent[i][None]

    def sweep(_: Any, carry: tuple) -> tuple:
        v, normal, tangent = carry[0], list(carry[1]), list(carry[2])
        for i, (g, k) in enumerate(order):
            rows = groups[g]
            found = rows.contacts
            if found.tangent is not None and rows.tangent_mass is not None and rows.drag is not None:
                slip, most = (found.tangent[k] * v).sum(0), found.friction[k] * normal[i]
                impulse = jnp.clip(tangent[i] - rows.tangent_mass[k] * slip, -most, most)
                v, tangent[i] = v + rows.drag[k] * (impulse - tangent[i])[None], impulse
            lack = aims[g][k] - (found.normal[k] * v).sum(0)
            impulse = jnp.maximum(normal[i] + rows.normal_mass[k] * lack, 0.0)
            v, normal[i] = v + rows.push[k] * (impulse - normal[i])[None], impulse
        return v, tuple(normal), tuple(tangent)

    v, normal, tangent = jax.lax.fori_loop(0, sweeps, sweep, (v, tuple(normal), tuple(tangent)))
    return v, jnp.stack(normal + tangent)
