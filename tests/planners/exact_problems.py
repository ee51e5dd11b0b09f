"""Problems of which the answer is known, and what the planners' tests share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mbrl.core.distributions import OneHot, Squashed
from mbrl.planners import PLANNERS
from mbrl.planners.base import Arrival, Problem

SMALL = {
    "random": {"samples": 256, "horizon": 2, "elites": 8},
    "cem": {"samples": 64, "horizon": 2, "elites": 8},
    "icem": {"samples": 64, "horizon": 3, "elites": 8, "kept": 2},
    "mppi": {"samples": 64, "horizon": 2, "elites": 16, "policy_samples": 4},
    "gradient": {"starts": 2, "horizon": 2},
    "mctx": {"simulations": 16, "candidates": 8, "considered": 8},
    "soft_tree": {"width": 4, "candidates": 4, "paths": 2, "horizon": 3},
}
STARTS = jnp.array([[-0.6], [0.2], [0.5]])


def line(policy_std=0.3, value=lambda s: -2.0 * s**2, discount=0.9, going=lambda s: jnp.ones_like(s), wide=1.0):
    """s' = s + a, r = -s'² - a²/10, on a line; with a critic and a policy that are neither right nor wrong."""

    def step(params, key, latent, action):
        del params, key
        after = latent + action
        s = after[..., 0]
        return Arrival(after, -(s**2) - 0.1 * action[..., 0] ** 2, going(s))

    policy = lambda _, latent: Squashed(-0.3 * latent, jnp.full_like(latent, policy_std))
    critic = None if value is None else lambda _, latent: value(latent[..., 0])[None]
    return Problem(step, 1, discount, policy, critic, -wide, wide)


def noisy_line():
    """The line with noise in its steps, drawn by the key: the same for all candidates of an environment."""
    plain = line()

    def step(params, key, latent, action):
        arrival = plain.step(params, key, latent, action)
        noise = jax.random.normal(key, latent.shape)
        return Arrival(arrival.latent + noise, arrival.reward + 10 * noise[..., 0], arrival.going)

    return plain._replace(step=step)


class Table:
    """A small deterministic MDP that may end at every step with a known probability."""

    def __init__(self, states=5, actions=3, discount=0.9, seed=0):
        rng = np.random.default_rng(seed)
        self.following = rng.integers(states, size=(states, actions))
        self.reward = rng.normal(size=(states, actions))
        self.going = rng.uniform(0.3, 1.0, size=(states, actions))
        self.value = rng.normal(size=states)
        logits = rng.normal(size=(states, actions))
        self.policy = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        self.actions, self.discount = actions, discount

    def problem(self):
        def step(params, key, latent, action):
            del params, key
            pick = lambda table: (jnp.asarray(table)[latent] * action).sum(-1)
            after = (jnp.asarray(self.following)[latent] * action.astype(int)).sum(-1)
            reward, going = (pick(np.asarray(x, np.float32)) for x in (self.reward, self.going))
            return Arrival(after, reward, going)

        policy = lambda _, latent: OneHot(jnp.log(jnp.asarray(self.policy, jnp.float32))[latent])
        value = lambda _, latent: jnp.asarray(self.value, jnp.float32)[latent][None]
        return Problem(step, self.actions, self.discount, policy, value, discrete=True)

    def expectimax(self, state, depth, soft=None):
        """Return V by brute force: the best action everywhere, or (``soft``) the policy's expectation."""
        if depth == 0:
            return self.value[state]
        after = [self.expectimax(int(s), depth - 1, soft) for s in self.following[state]]
        q = self.reward[state] + self.discount * self.going[state] * np.array(after)
        return self.policy[state] @ q if soft else q.max()


def planned(planner, latent, key=0, params=None, carry=None):
    """Return the plan and the next carry of one jitted call."""
    batch = jax.tree.leaves(latent)[0].shape[0]
    carry = planner.initial(batch) if carry is None else carry
    return _compiled(planner)(params, jax.random.key(key), latent, carry)


@functools.cache
def _compiled(planner):
    return jax.jit(planner.plan)


def small(name, **fields):
    return dataclasses.replace(PLANNERS[name].config, **(SMALL[name] | fields))
