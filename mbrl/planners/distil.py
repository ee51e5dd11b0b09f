"""What a policy learns from a search: losses over the candidates of a plan.

Symbols: q_k the search's weight of candidate a_k, pi the policy, B environments, K candidates.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core.distributions import Squashed, TanhNormal, normal_kl
from mbrl.core.errors import UserError
from mbrl.planners.base import Proposal

stop = jax.lax.stop_gradient


def cross_entropy(
    policy: Proposal, candidates: Float[Array, "B K A"], weights: Float[Array, "B K"]
) -> Float[Array, "B"]:
    """Return -sum_k q_k log pi(a_k) (Danihelka et al. 2022, eq. 12; Hubert et al. 2021), over all candidates.

    Args:
        policy: where the plans began, ``[B]``; its parameters alone get a gradient.
        candidates: of the plans.
        weights: of the candidates; they sum to 1.
    """
    each = jax.tree.map(lambda x: x[:, None], policy)
    return -(stop(weights) * each.log_prob(stop(candidates))).sum(-1)


def moment_match(
    policy: Proposal, candidates: Float[Array, "B K A"], weights: Float[Array, "B K"], floor: float = 0.05
) -> Float[Array, "B"]:
    """Return KL(Normal(m, s) || pi) in nats, m and s the search's own moments (BMPC: Wang et al. 2025, eq. 8).

    Of a policy with a tanh both are normals before it.

    Args:
        policy: where the plans began, ``[B]``; its parameters alone get a gradient.
        candidates: of the plans.
        weights: of the candidates; they sum to 1.
        floor: least deviation of the target, which else would be 0 where one candidate has all the weight.

    Raises:
        UserError: the policy is one of discrete actions.
    """
    if not isinstance(policy, (Squashed, TanhNormal)):
        raise UserError(
            f"moment_match needs a policy of continuous actions, which has moments; got {type(policy).__name__}; take "
            "cross_entropy"
        )
    inner = candidates
    if isinstance(policy, TanhNormal):
        edge = 1.0 - 1e-6
        inner = jnp.arctanh(jnp.clip(candidates, -edge, edge))
    mean = stop((weights[..., None] * inner).sum(1))
    variance = (weights[..., None] * jnp.square(inner - mean[:, None])).sum(1)
    std = stop(jnp.sqrt(jnp.maximum(variance, floor**2)))
    return normal_kl((mean, std), (policy.loc, policy.scale)).sum(-1)


def value_ascent(value: Float[Array, "B"]) -> Float[Array, "B"]:
    """Return minus the plan's value, whose gradient reaches the policy that its candidates were drawn from.

    The search must have run on the policy's own parameters, with the model's held fixed. With one candidate a node, no
    mixing and no refinement that is Dreamer's gradient through the dynamics (Hafner et al. 2020, eq. 7).
    """
    return -value
