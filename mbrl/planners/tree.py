"""A tree of imagined states that grows M nodes at a time, with static shapes N = 1 + R M.

A node is a state that an edge led to; an edge is a candidate action of its parent, a = squash(mu + sigma eps) with the
parent's policy mu and sigma. Each round expands the M edges with the greatest log rho + log w + Gumbel noise: sampling
without replacement in proportion to rho w (Kool et al. 2019), rho being the product of the soft weights on the path.
Candidates of one node are drawn alike, so a candidate's eps is drawn when its edge is expanded: the same search,
without noise for the many that never are.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mbrl.core import parallel
from mbrl.core.distributions import OneHot, Squashed, TanhNormal
from mbrl.core.types import Params, PRNGKey
from mbrl.planners.base import (
    Arrival,
    Problem,
    Proposal,
    Warm,
    batch_of,
    branch,
    chosen,
    finite,
    held,
    into_bounds,
    normal,
    proposed,
    take,
    worth,
)
from mbrl.planners.tree_backup import NEVER, Edges, Worth, backup, lower
from mbrl.worldmodels.base import Latent

stop = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a tree and how it is valued."""

    rounds: int  # R
    width: int  # M
    root: int  # candidates of the root, at least M
    candidates: int  # K of every other node
    depth: int  # no node lies deeper
    temperature: float  # tau, in units of the root's spread
    relative: bool = True  # False: in units of value
    mix: bool = True  # see ``backup``
    pessimism: float = 0.0  # kappa

    @property
    def sizes(self) -> tuple[int, ...]:
        """Nodes added at once: the root, then M a round."""
        return (1, *(self.width,) * self.rounds)


class Noise(NamedTuple):
    """All that is random about a search."""

    action: Float[Array, "B RM A"]  # eps of every node but the root
    gumbel: Float[Array, "B L"]  # of every edge that can be chosen: the root's, then those of each further node
    keys: Array  # [R] of the model's steps
    table: Float[Array, "K A"] | None = None  # eps of the K-th candidate of every node, in place of ``action``
    log_weight: Float[Array, "K"] | None = None  # with the table: log w, e.g. of a quadrature


class Nodes(NamedTuple):
    """The tree; ``edges`` has whose child each node is and what came with it."""

    edges: Edges
    latent: Latent  # [B, N, ...]
    policy: Proposal  # [B, P, ...] of all nodes but the last round's, which have no children
    action: Float[Array, "B N A"]  # that led here
    eps: Float[Array, "B N A"]
    slot: Int[Array, "B N"]  # which of its parent's candidates
    depth: Int[Array, "B N"]
    planned: Bool[Array, "B N"]  # on the path of the plan before


class Grown(NamedTuple):
    """A tree that is finished."""

    nodes: Nodes
    worth: Worth
    temperature: Float[Array, "B"]  # tau in units of value


def draw(key: PRNGKey, shape: Shape, batch: int, actions: int) -> Noise:
    """Draw what a search needs."""
    action_key, gumbel_key, step_key = jax.random.split(key, 3)
    edges = shape.root + (shape.rounds - 1) * shape.width * shape.candidates
    return Noise(
        normal(action_key, (batch, shape.rounds * shape.width, actions)),
        parallel.draw(jax.random.gumbel, gumbel_key, (batch, edges), axis=0),
        jax.random.split(step_key, shape.rounds),
    )


def grow(
    problem: Problem, shape: Shape, params: Params, latent: Latent, noise: Noise, warm: Warm | None = None
) -> Grown:
    """Grow a tree from ``latent [B]``.

    Args:
        problem: with a policy.
        shape: of the tree.
        params: the problem's.
        latent: of the root.
        noise: from ``draw``.
        warm: the plan before; its actions become the first candidate of the root, and of each node on that path.
    """
    nodes = _sprout(problem, params, latent)
    place = _first(shape, nodes, noise, warm)
    for number in range(shape.rounds):
        last = number + 1 == shape.rounds
        eps = noise.action[:, number * shape.width : (number + 1) * shape.width]
        eps = eps if noise.table is None else noise.table[place[1]]
        nodes = _expand(problem, params, nodes, place, eps, noise, last, warm=warm)
        temperature = _scaled(shape, nodes, problem.discount)
        found = _valued(problem, shape, nodes, temperature)
        place = place if last else _choose(shape, nodes, found, noise)
    return Grown(nodes, found, temperature)


def _valued(problem: Problem, shape: Shape, nodes: Nodes, temperature: Float[Array, "B"]) -> Worth:
    done = (nodes.slot.shape[1] - 1) // shape.width
    return backup(nodes.edges, shape.sizes[: done + 1], problem.discount, temperature, shape.mix, shape.pessimism)


def log_reach(shape: Shape, tree: Nodes, log_soft: Float[Array, "B N"]) -> Float[Array, "B N"]:
    """Return log rho: how much of the root's soft weight passes through each node."""
    reach, begin = jnp.zeros_like(log_soft[:, :1]), 1
    while begin < log_soft.shape[1]:
        here = slice(begin, begin + shape.width)
        passed = take(reach, tree.edges.parent[:, here]) + log_soft[:, here]
        reach = jnp.concatenate([reach, jnp.maximum(passed, NEVER)], 1)
        begin += shape.width
    return reach


def best_path(tree: Nodes, log_soft: Float[Array, "B N"], rounds: int) -> tuple[Array, Array]:
    """Return the actions ``[B, R, A]`` of the path that follows the greatest soft weight, and where it goes on."""
    node, alive = jnp.zeros(log_soft.shape[0], jnp.int32), jnp.ones(log_soft.shape[0], bool)
    actions, known = [], []
    for _ in range(rounds):
        child = (tree.edges.parent == node[:, None]) & tree.edges.present
        alive = alive & child.any(1)
        node = jnp.argmax(jnp.where(child, log_soft, 2 * NEVER), 1).astype(jnp.int32)
        actions.append(take(tree.action, node[:, None])[:, 0])
        known.append(alive)
    return jnp.stack(actions, 1), jnp.stack(known, 1).astype(tree.action.dtype)


def _sprout(problem: Problem, params: Params, latent: Latent) -> Nodes:
    """Return the tree of a root alone."""
    root = jax.tree.map(lambda x: x[:, None], latent)
    whole = jnp.zeros((batch_of(latent), 1), jnp.int32)
    policy = proposed(problem, params, root)
    zero = jnp.zeros_like(policy.mode()[..., 0])
    action = jnp.zeros_like(policy.mode())
    edges = Edges(whole - 1, whole == 0, zero, zero, zero + 1, worth(problem, params, root, zero))
    return Nodes(edges, root, policy, action, action, whole, whole, whole == 0)


def _first(shape: Shape, nodes: Nodes, noise: Noise, warm: Warm | None) -> tuple[Array, Array, Array]:
    """Return parent, slot and presence ``[B, M]`` of the first round's edges: the root's, all or a sample of them.

    What the plan before would do is among them.
    """
    slots = jnp.broadcast_to(jnp.arange(shape.width), (nodes.slot.shape[0], shape.width)).astype(jnp.int32)
    if shape.width < shape.root:
        chance = _log_weights(nodes.policy, noise, 0, 1, shape.root)[:, 0] + noise.gumbel[:, : shape.root]
        if warm is not None:
            chance = chance.at[:, 0].add(jnp.where(warm.known[:, 0] > 0, -NEVER, 0.0))
        slots = jax.lax.top_k(stop(chance), shape.width)[1].astype(jnp.int32)
    return jnp.zeros_like(slots), slots, jnp.ones(slots.shape, bool)


def _choose(shape: Shape, nodes: Nodes, found: Worth, noise: Noise) -> tuple[Array, Array, Array]:
    """Return parent, slot and presence ``[B, M]`` of the next round's edges."""
    edges, (batch, count) = nodes.edges, nodes.slot.shape
    reach = log_reach(shape, nodes, found.log_soft)
    open_ = edges.present & (nodes.depth < shape.depth)
    reach = jnp.where(open_, reach, 2 * NEVER)
    interior = reach[:, 1:, None] + _log_weights(nodes.policy, noise, 1, count, shape.candidates)
    first = reach[:, :1, None] + _log_weights(nodes.policy, noise, 0, 1, shape.root)
    score = jnp.concatenate([first.reshape((batch, -1)), interior.reshape((batch, -1))], 1)
    score = score + noise.gumbel[:, : score.shape[1]]
    # What the plan before would do next is looked at again, whatever chance says.
    planned = jnp.where(nodes.planned[:, 1:] & open_[:, 1:], -NEVER, 0.0)
    score = score.at[:, shape.root :: shape.candidates].add(planned)
    taken = jnp.where(edges.parent == 0, nodes.slot, shape.root + (edges.parent - 1) * shape.candidates + nodes.slot)
    taken = jnp.where(edges.present & (nodes.depth > 0), taken, score.shape[1])
    score = jax.vmap(lambda row, at: row.at[at].set(2 * NEVER, mode="drop"))(score, taken)
    value, edge = jax.lax.top_k(stop(score), shape.width)
    beyond = edge - shape.root
    parent = jnp.where(beyond < 0, 0, 1 + beyond // shape.candidates)
    slot = jnp.where(beyond < 0, edge, beyond % shape.candidates)
    return parent.astype(jnp.int32), slot.astype(jnp.int32), value > NEVER / 2


def _log_weights(policy: Proposal, noise: Noise, begin: int, end: int, count: int) -> Array:
    """Return log w of ``count`` candidates of each of the nodes from ``begin`` to ``end``: ``[B, nodes, count]``."""
    batch = policy.mode().shape[0]
    shape = (batch, end - begin, count)
    if isinstance(policy, OneHot):
        return policy.log_probs[:, begin:end]
    if noise.log_weight is not None:
        return jnp.broadcast_to(noise.log_weight, shape)
    return jnp.full(shape, -jnp.log(count))


def _expand(
    problem: Problem,
    params: Params,
    nodes: Nodes,
    place: tuple[Int[Array, "B M"], Int[Array, "B M"], Bool[Array, "B M"]],
    eps: Float[Array, "B M A"],
    noise: Noise,
    last: bool,
    warm: Warm | None = None,
) -> Nodes:
    """Return the tree with M more nodes: candidate ``slot`` of ``parent`` each, where there is one."""
    parent, slot, present = place
    proposal = take(nodes.policy, parent)
    depth = take(nodes.depth, parent) + 1
    planned = jnp.zeros_like(present)
    if warm is not None:
        at = jnp.minimum(depth - 1, warm.known.shape[1] - 1)
        planned = take(nodes.planned, parent) & (slot == 0) & (take(warm.known, at) > 0)
        eps = jnp.where(planned[..., None], _eps_of(proposal, take(warm.sequence, at)), eps)
    action = held(problem, act(proposal, eps, slot))
    number = (nodes.slot.shape[1] - 1) // slot.shape[1]
    here = take(nodes.latent, parent)
    arrival = branch(problem, params, noise.keys[number], here, action)
    log_weight = _log_weight(proposal, noise, slot)
    value = worth(problem, params, arrival.latent, arrival.reward)
    # A step of which the model says nothing finite is not in the tree. What is left of it spoils no value, though a
    # derivative of the model itself that is not finite there goes on being so.
    known = finite(arrival, jnp.moveaxis(value, 0, -1), rows=2)
    present, latent = present & known, chosen(known, arrival.latent, here)
    arrival = Arrival(latent, *chosen(known, arrival[1:], (jnp.zeros_like(arrival.reward),) * 2))
    value = jnp.where(known, value, 0.0)
    edges = Edges(parent, present, log_weight, arrival.reward, arrival.going, value)
    policy = nodes.policy
    if not last:
        policy = _joined(policy, proposed(problem, params, arrival.latent), 1)
    joined = jax.tree.map(lambda old, new: jnp.concatenate([old, new], -1), nodes.edges, edges)
    latent, grown_action, eps = _joined((nodes.latent, nodes.action, nodes.eps), (arrival.latent, action, eps), 1)
    old = nodes.slot, nodes.depth, nodes.planned
    return Nodes(joined, latent, policy, grown_action, eps, *_joined(old, (slot, depth, planned), 1))


def act(proposal: Proposal, eps: Float[Array, "B M A"], slot: Int[Array, "B M"]) -> Float[Array, "B M A"]:
    """Return squash(mu + sigma eps); of a discrete policy the action of that number."""
    if isinstance(proposal, OneHot):
        return jax.nn.one_hot(slot, proposal.log_probs.shape[-1])
    inner = proposal.loc + proposal.scale * eps
    return jnp.tanh(inner) if isinstance(proposal, TanhNormal) else inner


def push(
    problem: Problem,
    proposal: Proposal,
    eps: Float[Array, "B M A"],
    given: Float[Array, "B M A"],
    planned: Bool[Array, "B M"],
    u: Float[Array, "B M A"],
) -> Float[Array, "B M A"]:
    """Return squash(mu + sigma (eps + u)), or squash(squash^-1(given) + sigma u) where that was planned.

    What was drawn beyond the bounds begins on them, for on the way back to them a step would gain nothing.
    """
    assert not isinstance(proposal, OneHot)
    drawn = proposal.loc + proposal.scale * eps
    drawn = into_bounds(problem, drawn) if isinstance(proposal, Squashed) else drawn
    inner = jnp.where(planned[..., None], _inside(proposal, given), drawn) + proposal.scale * u
    return jnp.tanh(inner) if isinstance(proposal, TanhNormal) else inner


def _inside(proposal: Squashed | TanhNormal, action: Float[Array, "B M A"]) -> Float[Array, "B M A"]:
    """Return what is squashed to an action."""
    edge = 1.0 - 1e-6
    return action if isinstance(proposal, Squashed) else jnp.arctanh(jnp.clip(action, -edge, edge))


def _eps_of(proposal: Proposal, action: Float[Array, "B M A"]) -> Float[Array, "B M A"]:
    """Return the noise with which a policy would have taken an action."""
    if isinstance(proposal, OneHot):
        return action
    return (_inside(proposal, action) - proposal.loc) / proposal.scale


def _log_weight(proposal: Proposal, noise: Noise, slot: Int[Array, "B M"]) -> Float[Array, "B M"]:
    if isinstance(proposal, OneHot):
        return jnp.take_along_axis(proposal.log_probs, slot[..., None], -1)[..., 0]
    if noise.log_weight is not None:
        return noise.log_weight[slot]
    return jnp.zeros_like(proposal.loc[..., 0])  # all alike


# Least spread of Q, as a share of its size.
_LEAST_SPREAD = 1e-4


def _scaled(shape: Shape, nodes: Nodes, discount: float) -> Float[Array, "B"]:
    """Return tau ``[B]`` in units of value: of the spread of what the root's children so far are worth at one look.

    Float32 keeps some seven digits of Q = r + gamma c V. Were the spread less than 1e-4 of its size (with one candidate
    it is 0), the logits Q / tau would lose theirs, and what is to cancel in the derivative of V_soft would not.
    """
    edges = nodes.edges
    if not shape.relative:
        return jnp.full(edges.reward.shape[0], shape.temperature, edges.reward.dtype)
    q = lower(edges.reward[None] + discount * edges.going[None] * edges.value, shape.pessimism)
    child = ((edges.parent == 0) & edges.present).astype(q.dtype)
    share = child / jnp.maximum(child.sum(1, keepdims=True), 1.0)
    variance = (share * jnp.square(q - (share * q).sum(1, keepdims=True))).sum(1)
    size = (share * jnp.square(jax.lax.stop_gradient(q))).sum(1)
    return shape.temperature * jnp.sqrt(variance + 1e-12 + _LEAST_SPREAD**2 * size)


def _joined(old: Any, new: Any, axis: int) -> Any:
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis), old, new)
