"""The optimiser: clipping as a whole or adaptively by tensor, then LaProp or Adam, then a warm-up of the learning rate.

Symbols: g gradient, θ parameter, n running mean of g², m momentum, β1 and β2 their decay rates, η learning rate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from mbrl.core import parallel
from mbrl.core.errors import UserError, unknown
from mbrl.core.rows import WIDTH, Rows, Split, is_split
from mbrl.core.types import Params

Normaliser: TypeAlias = Literal["laprop", "adam"]


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser."""

    learning_rate: float = 4e-5
    """Size of a parameter's step once the warm-up is over."""
    optimiser: Normaliser = "laprop"
    """LaProp takes the momentum of the normalised gradient, Adam normalises the momentum of the gradient."""
    clip: float | None = None
    """The largest norm that all gradients together may have; `null` for any."""
    agc: float | None = 0.3
    """Adaptive gradient clipping: a tensor's gradient may be at most this share of the tensor's own norm; `null` for
    none."""
    agc_eps: float = 1e-3
    """The norm below which a tensor counts as this large for the clipping, so that zeros can grow."""
    beta1: float = 0.9
    """Decay rate of the momentum."""
    beta2: float = 0.999
    """Decay rate of the running mean of the squared gradient."""
    eps: float = 1e-20
    """Added to the root of that mean before it divides."""
    warmup: int = 1_000
    """Updates over which the learning rate rises linearly from 0; 0 switches the warm-up off."""


class LaPropState(NamedTuple):
    """What LaProp remembers; the trees have the shapes of what it is given."""

    steps: Int[Array, ""]
    squares: PyTree  # n
    momentum: PyTree  # m


def clip_by_agc(
    clip: Float[ArrayLike, ""], eps: Float[ArrayLike, ""], norm: Callable[[Array], Array] = jnp.linalg.norm
) -> optax.GradientTransformation:
    """Clip each tensor's gradient to a share of the tensor's own norm.

    g ← g · min(1, clip · max(eps, ‖θ‖) / ‖g‖), each norm over the whole tensor. (Brock et al. 2021,
    "High-Performance Large-Scale Image Recognition Without Normalization", eq. 3, there by unit;
    Hafner et al. 2023 by tensor, as here.)

    Args:
        clip: the largest ratio ‖g‖ / ‖θ‖ that passes unchanged.
        eps: the least ‖θ‖ that is reckoned with.
        norm: ‖·‖ of an array of the tree; of one that holds many tensors, the norm of each, to be broadcast against it.
    """

    def clip_one(g: Array, theta: Array) -> Array:
        bound = clip * jnp.maximum(eps, norm(theta))
        # Dividing by at least 1 instead of multiplying by at most 1 keeps g = 0 free of 0 / 0.
        return g / jnp.maximum(1.0, norm(g) / bound)

    def init(params: Params) -> optax.OptState:
        del params
        return optax.EmptyState()

    def update(updates: optax.Updates, state: optax.OptState, params: Params | None = None):
        if params is None:
            raise ValueError("adaptive gradient clipping needs the parameters: call update(grads, state, params)")
        return jax.tree.map(clip_one, updates, params), state

    return optax.GradientTransformation(init, update)


def scale_by_laprop(
    beta1: Float[ArrayLike, ""], beta2: Float[ArrayLike, ""], eps: Float[ArrayLike, ""]
) -> optax.GradientTransformation:
    """Normalise the gradient by its running root mean square, then take the momentum of that.

    n ← β2 n + (1 - β2) g²;  m ← β1 m + (1 - β1) g / (√(n / (1 - β2^t)) + ε);  update = m / (1 - β1^t).
    A step is thereby never longer than the normalised gradients it averages, whatever β1 and β2.
    (Ziyin et al. 2020, "LaProp: Separating Momentum and Adaptivity in Adam", algorithm 1.)
    """

    def init(params: Params) -> LaPropState:
        # Two calls, for one tree of zeros used twice would be one buffer, which cannot be donated twice.
        return LaPropState(jnp.int32(0), jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

    def update(updates: optax.Updates, state: Any, params: Params | None = None):
        del params
        steps = jnp.asarray(optax.safe_increment(state.steps))
        seen1, seen2 = 1 - beta1**steps, 1 - beta2**steps  # the weight of the gradients seen so far
        squares = jax.tree.map(lambda n, g: beta2 * n + (1 - beta2) * jnp.square(g), state.squares, updates)
        normed = jax.tree.map(lambda n, g: g / (jnp.sqrt(n / seen2) + eps), squares, updates)
        momentum = jax.tree.map(lambda m, u: beta1 * m + (1 - beta1) * u, state.momentum, normed)
        return jax.tree.map(lambda m: m / seen1, momentum), LaPropState(steps, squares, momentum)

    return optax.GradientTransformation(init, update)


def make_optimiser(config: OptimConfig) -> optax.GradientTransformation:
    """Return the chain: clip, normalise, warm up, descend. Its ``update`` needs the parameters.

    Update t = 1, 2, … is made with η min(1, t / warmup).

    Raises:
        UserError: there is no such optimiser, or a value lies outside its range.
    """
    check(config)
    normaliser = {"laprop": scale_by_laprop, "adam": optax.scale_by_adam}[config.optimiser]

    def learning_rate(updates_done: Int[ArrayLike, ""]) -> Float[Array, ""]:
        return config.learning_rate * jnp.minimum(1.0, (updates_done + 1) / max(1, config.warmup))

    def on_rows(rows: Rows) -> optax.GradientTransformation:
        each = optax.identity() if config.agc is None else clip_by_agc(config.agc, config.agc_eps, rows.norms)
        return optax.chain(
            each if config.clip is None else optax.chain(optax.clip_by_global_norm(config.clip), each),
            _by_columns(normaliser(config.beta1, config.beta2, config.eps)),
            optax.scale_by_learning_rate(learning_rate),
        )

    def init(params: Params) -> optax.OptState:
        rows = Rows(params)
        return on_rows(rows).init(rows.pack(params))

    def update(updates: optax.Updates, state: optax.OptState, params: Params | None = None):
        if params is None:
            raise ValueError("the optimiser clips by the size of the parameters: call update(grads, state, params)")
        rows = Rows(params)
        packed, state = on_rows(rows).update(rows.pack(updates), state, rows.pack(params))
        return rows.unpack(jnp.asarray(packed)), state

    return optax.GradientTransformation(init, update)


def _by_columns(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let what treats each number by itself do so on the columns of the rows that its state has; all come back."""

    def init(params: Params) -> optax.OptState:
        return inner.init(Split(params))

    def update(updates: Any, state: optax.OptState, params: Params | None = None):
        del params
        parts = [part for part in jax.tree.leaves(state, is_leaf=is_split) if is_split(part)]
        held = parts[0].rows.shape[1]
        part = updates if held == WIDTH else parallel.own(updates, held, axis=1)
        steps, state = inner.update(Split(part), state)
        (rows,) = jax.tree.leaves(steps)
        return rows if held == WIDTH else parallel.gather(rows, axis=1), state

    return optax.GradientTransformation(init, update)


def check(config: OptimConfig) -> None:
    """Raise UserError for an optimiser that there is not, or the first value outside its range."""
    if config.optimiser not in get_args(Normaliser):
        raise unknown("optim.optimiser", config.optimiser, get_args(Normaliser))
    for name in ("learning_rate", "clip", "agc", "agc_eps", "eps"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"optim.{name} must be above 0 and finite, not {value}")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"optim.{name} must be at least 0 and below 1, not {getattr(config, name)}")
    if config.warmup < 0:
        raise UserError(f"optim.warmup must be at least 0 updates, not {config.warmup}")
