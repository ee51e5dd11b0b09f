"""What a tree of imagined states is worth, from its leaves to its root.

Symbols: w prior weight of a node's candidate, q its soft weight, Q of the edge that leads to a node, v critic, n nodes
below, tau temperature, rho product of the soft weights on the path from the root.
    Q = r + gamma c V        q_k ∝ w_k e^{Q_low,k / tau}        Q_low = mean_e Q - kappa std_e Q
    V_soft = sum_k q_k (Q_k - tau log (q_k / w_k)), the w_k made to sum to 1
    V = (v + n V_soft) / (1 + n), or V_soft itself without mixing; V = v at a leaf
All critics share one q, so that none is credited with a choice of its own; of one critic V_soft is tau log sum_k w_k
e^{Q_k / tau}. Sums go over the candidates that were expanded. tau -> 0 gives max Q, tau -> infinity the prior's
expectation. With tau in units of the spread of the root's Q the weights do not change when rewards are scaled, nor when
they are shifted by less than makes that spread float32's rounding.
dV_root/dtheta is rho-weighted: the derivative of V_soft by Q_k is q_k, that by q vanishes (the envelope theorem). That
is exact of one critic and, of the critics' mean, with kappa = 0; else q is the best for Q_low, not for each critic.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

stop = jax.lax.stop_gradient

# Stands for the logarithm of 0 where minus infinity would make a derivative of 0 times infinity.
NEVER = -1e30


class Edges(NamedTuple):
    """The nodes of a tree in the order of their expansion, each with the edge that leads to it; the root is first."""

    parent: Int[Array, "B N"]  # -1 of the root
    present: Bool[Array, "B N"]
    log_weight: Float[Array, "B N"]  # log w
    reward: Float[Array, "B N"]
    going: Float[Array, "B N"]  # c
    value: Float[Array, "E B N"]  # v of each critic


class Worth(NamedTuple):
    """What ``backup`` found."""

    value: Float[Array, "E B N"]  # V
    edge: Float[Array, "E B N"]  # Q
    log_soft: Float[Array, "B N"]  # log q, ``NEVER`` of the root
    below: Float[Array, "B N"]  # n


def backup(
    edges: Edges,
    rounds: tuple[int, ...],
    discount: float,
    temperature: Float[Array, "B"],
    mix: bool,
    pessimism: float,
) -> Worth:
    """Value every node.

    Args:
        edges: of the tree.
        rounds: how many nodes were added at once: 1 for the root, then of each round; they sum to N. A node's
            children were added in later rounds than it.
        discount: gamma.
        temperature: tau, in units of value.
        mix: whether a node's own v counts as one of its n + 1 estimates.
        pessimism: kappa: the soft weights are those of the critics' mean less kappa deviations.
    """
    ends = [sum(rounds[: i + 1]) for i in range(len(rounds))]
    critics, batch, _ = edges.value.shape
    # What lies after the round at hand, in the order of the nodes.
    value, edge = (jnp.zeros((critics, batch, 0), edges.value.dtype) for _ in range(2))
    log_soft, below = (jnp.zeros((batch, 0), edges.value.dtype) for _ in range(2))
    for count, end in reversed(list(zip(rounds, ends, strict=True))):
        begin = end - count
        here = slice(begin, end)
        own = edges.value[:, :, here]
        if edge.shape[-1]:
            nodes = begin + jnp.arange(count)
            child = (edges.parent[:, None, end:] == nodes[None, :, None]) & edges.present[:, None, end:]
            soft, share = _soft(child, edge, edges.log_weight[:, end:], temperature, pessimism)
            counted = jnp.where(child, 1.0 + below[:, None], 0.0).sum(-1)
            combined = (own + counted[None] * soft) / (1.0 + counted[None]) if mix else soft
            arrived = jnp.where((counted > 0)[None], combined, own)
            log_soft = jnp.where(child.any(1), share, log_soft)
        else:
            counted, arrived = jnp.zeros((batch, count), own.dtype), own
        q = edges.reward[None, :, here] + discount * edges.going[None, :, here] * arrived
        value, edge = jnp.concatenate([arrived, value], -1), jnp.concatenate([q, edge], -1)
        log_soft = jnp.concatenate([jnp.full((batch, count), NEVER, log_soft.dtype), log_soft], -1)
        below = jnp.concatenate([counted, below], -1)
    return Worth(value, edge, log_soft, below)


def _soft(
    child: Bool[Array, "B P C"],
    edge: Float[Array, "E B C"],
    log_weight: Float[Array, "B C"],
    temperature: Float[Array, "B"],
    pessimism: float,
) -> tuple[Float[Array, "E B P"], Float[Array, "B C"]]:
    """Return V_soft of P parents by each critic, and log q of C nodes, of which ``child`` says whose they are."""
    heat, low = temperature[:, None], lower(edge, pessimism)[:, None]
    total = _log_sum(child, log_weight[:, None])
    # From the best child of each parent on, so that what is divided by tau are differences and not values: beside those
    # float32 would have no digits left for the weights.
    top = stop(jnp.where(child, low, NEVER).max(-1))
    top = jnp.where(top > NEVER / 2, top, 0.0)
    logits = log_weight[:, None] + (low - top[..., None]) / heat[..., None]
    each = _log_sum(child, logits)
    share = jnp.where(child, logits - each[..., None], 0.0)
    if edge.shape[0] == 1:  # the same in fewer terms, so that no large ones have to cancel in the derivative
        return (top + heat * (each - total))[None], share.sum(1)
    soft = jnp.where(child, jnp.exp(share), 0.0)
    price = jnp.where(child, share - log_weight[:, None] + total[..., None], 0.0)
    kept = edge[:, :, None] - temperature[None, :, None, None] * price[None]
    return (soft[None] * kept).sum(-1), share.sum(1)


def _log_sum(member: Bool[Array, "..."], logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the logarithm of the members' summed exponentials along the last axis; ``NEVER`` where there is none.

    The two are of one rank and broadcast against each other.
    """
    masked = jnp.where(member, logits, NEVER)
    top = masked.max(-1)
    some = top > NEVER / 2
    shift = jnp.where(some, top, 0.0)
    # The shift cancels, so that it needs no derivative: without, ties would halve the first and spoil the second.
    total = jnp.where(member, jnp.exp(masked - stop(shift)[..., None]), 0.0).sum(-1)
    return jnp.where(some, stop(shift) + jnp.log(jnp.where(some, total, 1.0)), NEVER)


def lower(values: Float[Array, "E *N"], pessimism: float) -> Float[Array, "*N"]:
    """Return the critics' mean less ``pessimism`` of their deviations; of one critic, its value."""
    mean = values.mean(0)
    if values.shape[0] == 1 or pessimism == 0:
        return mean
    # Where all critics agree the root has no slope; there the deviation counts as a constant.
    variance = jnp.square(values - mean[None]).mean(0)
    return mean - pessimism * jnp.sqrt(jnp.maximum(variance, 1e-12))
