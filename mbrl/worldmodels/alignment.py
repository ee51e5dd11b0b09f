"""What can teach an encoder in place of reconstruction: the latent must tell which observation it belongs to.

Two vectors are compared for each step: one projected from what was seen (the token), one predicted from the latent.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core import parallel
from mbrl.core.errors import UserError, unknown

Objective: TypeAlias = Literal["reconstruction", "infonce", "barlow"]


@dataclasses.dataclass(frozen=True)
class AlignmentConfig:
    """The losses without a decoder."""

    size: int = 128
    """Length of the vectors that are compared."""
    scale: float = 1.0
    """Weight of the loss."""
    temperature: float = 0.1
    """Of `infonce`: by which cosines are divided."""
    redundancy: float = 5e-3
    """Of `barlow`: weight of the correlations between different entries."""


def check(objective: str, config: AlignmentConfig) -> None:
    """Raise a UserError for an objective that there is not, and numbers out of their range."""
    if objective not in get_args(Objective):
        raise unknown("worldmodel.objective", objective, get_args(Objective))
    for name, least in (("size", 2), ("scale", 0), ("redundancy", 0)):
        if not getattr(config, name) >= least:
            raise UserError(f"worldmodel.alignment.{name} must be at least {least}; got {getattr(config, name)}")
    if not config.temperature > 0:
        raise UserError(f"worldmodel.alignment.temperature must be above 0; got {config.temperature}")


def info_nce(
    predicted: Float[Array, "N D"], projected: Float[Array, "N D"], temperature: float
) -> Float[Array, "N"]:
    """Return how badly each vector is told from those of all other steps, both ways, in nats.

    L_i = -1/2 [log softmax_j(s_ij)_i + log softmax_j(s_ji)_i], s_ij the cosine of predicted i and projected j over the
    temperature (van den Oord et al. 2018, eq. 4; Radford et al. 2021 for the symmetric form): ln N where nothing is.
    """
    # Under the root, not behind it: the gradient at zero is then finite, too.
    unit = lambda x: x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
    scores = unit(predicted) @ unit(projected).T / temperature
    right = lambda scores: jnp.diagonal(jax.nn.log_softmax(scores, axis=-1))
    return -(right(scores) + right(scores.T)) / 2


def barlow_twins(
    predicted: Float[Array, "N D"], projected: Float[Array, "N D"], redundancy: float
) -> Float[Array, ""]:
    """Return how far the two vectors' cross-correlation over the N steps is from the identity.

    L = sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2 (Zbontar et al. 2021, eq. 1-2).
    """
    whiten = lambda x: (x - x.mean(0)[None]) * jax.lax.rsqrt(x.var(0)[None] + 1e-8)
    correlation = whiten(predicted).T @ whiten(projected) / len(predicted)
    diagonal = jnp.diagonal(correlation)
    apart = jnp.square(correlation).sum() - jnp.square(diagonal).sum()
    return jnp.square(1 - diagonal).sum() + redundancy * apart


def misalignment(
    objective: Objective, config: AlignmentConfig, predicted: Float[Array, "T B D"], projected: Float[Array, "T B D"]
) -> Float[Array, "T B"]:
    """Return the loss of each step; Barlow's, which is one of them all, stands at each.

    Mapped over devices, steps are compared with those of all devices.
    """
    steps, rows, size = predicted.shape
    predicted, projected = parallel.gather((predicted, projected), axis=1)
    flat = predicted.reshape((-1, size)), projected.reshape((-1, size))
    if objective == "barlow":
        return jnp.broadcast_to(barlow_twins(*flat, config.redundancy), (steps, rows))
    return parallel.own(info_nce(*flat, config.temperature).reshape((steps, -1)), rows, axis=1)
