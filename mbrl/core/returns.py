"""Returns of one trajectory, real or imagined.

Symbols: r reward, d discount (the agent's own times the probability of going on), V value, λ the mixing weight.
Time is the leading axis; further axes are carried along, each entry a trajectory of its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def lambda_return(
    reward: Float[Array, "H *B"],
    discount: Float[Array, "H *B"],
    value: Float[Array, "H+1 *B"],
    lam: Float[ArrayLike, ""] | Float[Array, "H *B"],
) -> Float[Array, "H *B"]:
    """Return the λ-returns G of the states s_0 … s_{H-1}.

    G_t = r_{t+1} + d_{t+1} ((1 - λ) V(s_{t+1}) + λ G_{t+1}), and G_H = V(s_H): λ = 0 is the one-step target,
    λ = 1 the discounted sum of all rewards, bootstrapped at the end. (Sutton & Barto 2018, eq. 12.18 for the
    state value; Hafner et al. 2021, "Mastering Atari with Discrete World Models", eq. 4.)

    Args:
        reward: r_1 … r_H; entry t is the reward on arriving at s_{t+1}.
        discount: d_1 … d_H, in [0, 1]; 0 where s_{t+1} is terminal.
        value: V(s_0) … V(s_H); V(s_0) is not used, so that the critic's output is passed as it stands.
        lam: λ, in [0, 1]; one number, or λ_1 … λ_H where it differs (0 cuts the return at a truncation).
    """

    def backwards(following: Array, inputs: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        r, d, v, mix = inputs
        current = r + d * ((1 - mix) * v + mix * following)
        return current, current

    lams = jnp.broadcast_to(lam, reward.shape)
    return jax.lax.scan(backwards, value[-1], (reward, discount, value[1:], lams), reverse=True)[1]
