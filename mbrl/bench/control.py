"""Two problems of which the optimum is known, to measure planners on: an LQR and a pendulum.

Regret of a closed loop from s_0 over T steps is sum_t gamma^t (V*(s_t) - Q*(s_t, a_t)): by the performance difference
lemma (Kakade & Langford 2002, lemma 6.1) what the loop's return lacks of the optimum, if all goes on optimally after
T: exactly of the LQR, of the pendulum as far as its grid is exact. Every term is at least 0, so the sum has little
variance.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mbrl.core.distributions import Squashed
from mbrl.core.types import PRNGKey
from mbrl.planners.base import Arrival, Planner, Problem

GAMMA = 0.97
CRITICS = 4  # of a noisy problem, each with noise of its own
WAVES = 32  # plane waves in a critic's noise


class Known(NamedTuple):
    """A problem with its optimum.

    ``lack(state [B, S], action [B, A]) -> [B]`` is V*(s) - Q*(s, a); ``begin(key, B)`` draws first states.
    """

    problem: Problem
    value: Callable[[Array], Array]
    lack: Callable[[Array, Array], Array]
    begin: Callable[[PRNGKey, int], Array]


class LQR(NamedTuple):
    """x' = A x + B u, r = -(x'Qx + u'Ru), discounted: V* = -x'Px and u* = -Kx."""

    a: np.ndarray  # [S, S]
    b: np.ndarray  # [S, A]
    q: np.ndarray
    r: np.ndarray
    p: np.ndarray
    k: np.ndarray  # [A, S]


def riccati(a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray, gamma: float, steps: int) -> list:
    """Return (P, K) with 0, 1, …, ``steps`` steps to go, P = 0 with none (Bertsekas 2017, section 3.1, discounted)."""
    p = np.zeros_like(q)
    found: list[tuple[np.ndarray, np.ndarray]] = [(p, np.zeros((b.shape[1], a.shape[0])))]
    for _ in range(steps):
        k = np.linalg.solve(r + gamma * b.T @ p @ b, gamma * b.T @ p @ a)
        p = q + gamma * a.T @ p @ (a - b @ k)
        found.append((p, k))
    return found


def make_lqr(states: int = 12, actions: int = 6, seed: int = 0) -> LQR:
    """Return a random system on the edge of stability whose inputs are fewer than its states."""
    rng = np.random.default_rng(seed)
    a = np.linalg.qr(rng.normal(size=(states, states)))[0]
    b = rng.normal(size=(states, actions)) / np.sqrt(states)
    q, r = np.eye(states), 0.1 * np.eye(actions)
    p, k = riccati(a, b, q, r, GAMMA, 1000)[-1]
    return LQR(a, b, q, r, p, k)


def lqr(noise: float = 0.0, states: int = 12, actions: int = 6) -> Known:
    """Return the LQR, its exact model and value, and a prior policy that is wide and half as bold as the optimum.

    Args:
        noise: of the critics, as a share of the value's deviation over first states. Without any there is one critic,
            which is exact.
        states: S.
        actions: A.
    """
    system = make_lqr(states, actions)
    a, b, q, r, p, k = (jnp.asarray(x, jnp.float32) for x in system)
    form = lambda matrix, x: jnp.einsum("...i,ij,...j->...", x, matrix, x, precision="highest")
    best = lambda x: -x @ k.T
    # States so small that the best actions lie well within [-1, 1].
    size = float(0.4 / np.sqrt(np.square(system.k).sum(1).mean()))
    begin = lambda key, batch: size * jax.random.normal(key, (batch, states))
    curve = r + GAMMA * b.T @ p @ b

    def step(params: None, key: PRNGKey, x: Float[Array, "B S"], u: Float[Array, "B A"]) -> Arrival:
        del params, key
        reward = -form(q, x) - form(r, u)
        return Arrival(x @ a.T + u @ b.T, reward, jnp.ones_like(reward))

    policy = lambda _, x: Squashed(0.5 * best(x), jnp.full((*x.shape[:-1], actions), 0.5))
    value = lambda x: -form(p, x)
    problem = Problem(step, actions, GAMMA, policy, _critics(value, begin, noise))
    return Known(problem, value, lambda x, u: form(curve, u - best(x)), begin)


SPEED, PUSH, TICK = 8.0, 2.0, 0.05  # of the pendulum: largest speed and torque, seconds of a step


def swing(state: Float[Array, "*N 2"], action: Float[Array, "*N A"]) -> tuple[Array, Array]:
    """Return the state (angle, 0 upright; speed) and the reward of one step of the classic pendulum (Gymnasium's)."""
    angle, speed = state[..., 0], state[..., 1]
    torque = PUSH * jnp.clip(action[..., 0], -1.0, 1.0)
    wrapped = jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi
    reward = -(jnp.square(wrapped) + 0.1 * jnp.square(speed) + 0.001 * jnp.square(torque))
    speed = jnp.clip(speed + (15.0 * jnp.sin(angle) + 3.0 * torque) * TICK, -SPEED, SPEED)
    return jnp.stack([angle + speed * TICK, speed], -1), reward


def interpolate(table: Float[Array, "I J"], state: Float[Array, "*N 2"]) -> Float[Array, "*N"]:
    """Read a table over angle (periodic, I points) and speed (J points) bilinearly."""
    rows, columns = table.shape
    x = jnp.mod(state[..., 0] / (2 * jnp.pi), 1.0) * rows
    y = jnp.clip((state[..., 1] + SPEED) / (2 * SPEED), 0.0, 1.0) * (columns - 1)
    i = jnp.floor(x).astype(jnp.int32) % rows
    j = jnp.clip(jnp.floor(y).astype(jnp.int32), 0, columns - 2)
    f, g = x - jnp.floor(x), y - j
    following = (i + 1) % rows
    near = (1 - g) * table[i, j] + g * table[i, j + 1]
    far = (1 - g) * table[following, j] + g * table[following, j + 1]
    return (1 - f) * near + f * far


@functools.cache
def pendulum_table(rows: int = 121, columns: int = 121, actions: int = 41, sweeps: int = 500) -> Float[Array, "I J"]:
    """Return the pendulum's optimal value over a grid, by value iteration."""
    angle = jnp.arange(rows) * (2 * jnp.pi / rows)
    speed = jnp.linspace(-SPEED, SPEED, columns)
    states = jnp.stack(jnp.meshgrid(angle, speed, indexing="ij"), -1)
    pushes = jnp.linspace(-1.0, 1.0, actions)
    rows_of = lambda push: swing(states, jnp.broadcast_to(push, (rows, columns, 1)))
    after, reward = jax.vmap(rows_of)(pushes)

    # The grid is an argument: the compiler would work out what it can of a constant, for seconds.
    def iterate(after: Array, reward: Array) -> Array:
        sweep = lambda _, table: (reward + GAMMA * interpolate(table, after)).max(0)
        return jax.lax.fori_loop(0, sweeps, sweep, jnp.zeros((rows, columns)))

    return jax.jit(iterate)(after, reward)


def pendulum(noise: float = 0.0) -> Known:
    """Return the pendulum, its exact model, the value of the grid, and a prior policy that knows nothing."""
    table = pendulum_table()
    value = lambda state: interpolate(table, state)
    tried = jnp.linspace(-1.0, 1.0, 161)

    def step(params: None, key: PRNGKey, state: Float[Array, "B S"], action: Float[Array, "B A"]) -> Arrival:
        del params, key
        after, reward = swing(state, action)
        return Arrival(after, reward, jnp.ones_like(reward))

    def worth(state: Float[Array, "B 2"], action: Float[Array, "B 1"]) -> Float[Array, "B"]:
        after, reward = swing(state, action)
        return reward + GAMMA * value(after)

    def lack(state: Float[Array, "B 2"], action: Float[Array, "B 1"]) -> Float[Array, "B"]:
        every = jax.vmap(lambda push: worth(state, jnp.broadcast_to(push, action.shape)))(tried)
        taken = worth(state, action)
        return jnp.maximum(every.max(0), taken) - taken

    def begin(key: PRNGKey, batch: int) -> Float[Array, "B 2"]:
        spread = jax.random.uniform(key, (batch, 2), minval=-1.0, maxval=1.0)
        return spread * jnp.array([[jnp.pi, 2.0]])

    prior = lambda _, state: Squashed(jnp.zeros((*state.shape[:-1], 1)), jnp.ones((*state.shape[:-1], 1)))
    problem = Problem(step, 1, GAMMA, prior, _critics(value, begin, noise))
    return Known(problem, value, lack, begin)


def _critics(value: Callable[[Array], Array], begin: Callable, noise: float) -> Callable[[None, Array], Array]:
    """Return the exact critic, or several with smooth noise of medium frequency: two radians a state's deviation."""
    if noise == 0:
        return lambda _, state: value(state)[None]
    sample = begin(jax.random.key(11), 4096)
    width, height = sample.std(0), noise * value(sample).std()
    frequency_key, phase_key = jax.random.split(jax.random.key(12))
    size = sample.shape[1]
    frequency = 2.0 * jax.random.normal(frequency_key, (CRITICS, WAVES, size)) / width[None, None]
    phase = jax.random.uniform(phase_key, (CRITICS, WAVES), maxval=2 * jnp.pi)

    def critics(_: None, state: Float[Array, "*N S"]) -> Float[Array, "E *N"]:
        lead = (1,) * (state.ndim - 1)
        angle = jnp.einsum("ews,...s->e...w", frequency, state) + phase.reshape((CRITICS, *lead, WAVES))
        return value(state)[None] + height * jnp.sqrt(2 / WAVES) * jnp.sin(angle).sum(-1)

    return critics


def regret(known: Known, planner: Planner, key: PRNGKey, episodes: int = 32, steps: int = 20) -> Float[Array, "B"]:
    """Return each episode's regret in closed loop (see the top); to be jitted."""

    def act(key: PRNGKey, state: Array, carry: Any) -> tuple[Array, Any]:
        plan, carry = planner.plan(None, key, state, carry)
        return plan.action, carry

    return _closed(known, act, planner.initial(episodes), key, episodes, steps)


def policy_regret(known: Known, key: PRNGKey, episodes: int = 32, steps: int = 20) -> Float[Array, "B"]:
    """Return each episode's regret of the policy's mode, from the same first states by the same key."""
    policy = known.problem.policy
    assert policy is not None
    act = lambda _, state, carry: (policy(None, state).mode(), carry)
    return _closed(known, act, (), key, episodes, steps)


def _closed(
    known: Known, act: Callable, carry: Any, key: PRNGKey, episodes: int, steps: int
) -> Float[Array, "B"]:
    start_key, loop_key = jax.random.split(key)
    first = known.begin(start_key, episodes), carry

    def body(loop: tuple, inputs: tuple) -> tuple[tuple, Array]:
        (state, carry), (key, weight) = loop, inputs
        plan_key, step_key = jax.random.split(key)
        action, carry = act(plan_key, state, carry)
        lack = known.lack(state, action)
        state = known.problem.step(None, step_key, state, action).latent
        return (state, carry), weight * lack

    weights = GAMMA ** jnp.arange(steps)
    return jax.lax.scan(body, first, (jax.random.split(loop_key, steps), weights))[1].sum(0)
