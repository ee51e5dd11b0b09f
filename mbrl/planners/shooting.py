"""Planning by trying whole action sequences: random shooting, CEM, iCEM and MPPI, which share one loop.

Each iteration draws S sequences a = clip(mean + std eps) (those of the policy and the best so far among them), rolls
the model forward on common random numbers, and moves mean and deviation to those of the elites under weights:
    random   one iteration, uniform over the action space; the best counts alone
    cem      all elites alike (Rubinstein 1999)
    icem     the same, eps of a power spectrum f^-colour, some elites kept, a shifted warm start (Pinneri et al. 2020)
    mppi     elites by w_i ∝ e^{temperature (R_i - max R)} (Hansen et al. 2024, appendix; Williams et al. 2015)
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mbrl.core import parallel
from mbrl.core.errors import UserError
from mbrl.core.types import Params, PRNGKey
from mbrl.planners import tree as trees
from mbrl.planners.base import (
    WORST,
    Plan,
    Problem,
    Warm,
    batch_of,
    believed,
    branch,
    check,
    check_config,
    cold,
    into_bounds,
    middle,
    moments,
    normal,
    proposed,
    shifted,
    take,
    tiled,
    worth,
)
from mbrl.planners.tree_backup import NEVER
from mbrl.worldmodels.base import Latent


@dataclasses.dataclass(frozen=True)
class ShootingConfig:
    """Trying whole action sequences."""

    name: str = "mppi"
    """The planner."""
    samples: int = 512
    """S, sequences tried in each iteration."""
    horizon: int = 3
    """H, model steps of each; beyond them the value counts, where there is one."""
    iterations: int = 6
    """How often the distribution is moved."""
    elites: int = 64
    """Sequences it is moved to."""
    policy_samples: int = 24
    """Sequences of the policy among the samples of each iteration."""
    weighting: Literal["alike", "softmax"] = "softmax"
    """Elites count alike, or by their return."""
    temperature: float = 0.5
    """With softmax: how sharply by their return, per unit of it."""
    min_std: float = 0.05
    """Smallest deviation, in halves of the action range."""
    max_std: float = 2.0
    """Largest deviation, and the first one, in halves of the action range."""
    colour: float = 0.0
    """Power by which the noise's spectrum falls over time: 0 is white, 2 a random walk."""
    kept: int = 0
    """Best sequences of an iteration that are tried again in the next."""
    shift: bool = True
    """Start from the plan before, one step later."""
    uniform: bool = False
    """Draw uniformly over the action space instead."""
    choose: Literal["mean", "best", "sample"] = "mean"
    """The action: of the distribution's mean, of the best elite, or of one drawn by weight, as TD-MPC2 does."""
    noise: bool = False
    """Add normal noise of the distribution's deviation to the action, to explore, as TD-MPC2 does while it trains."""


class Searched(NamedTuple):
    """Where the distribution is, and the elites it was moved to, best first."""

    mean: Float[Array, "B H A"]
    std: Float[Array, "B H A"]
    elite: Float[Array, "B L H A"]
    returns: Float[Array, "B L"]
    weights: Float[Array, "B L"]


class Shooting:
    """A ``Planner``."""

    def __init__(self, config: ShootingConfig, problem: Problem) -> None:
        """Describe the search.

        Raises:
            UserError: for numbers out of range, or ``policy_samples`` without a policy.
        """
        needs = ["policy"] if config.policy_samples else []
        if problem.policy is None and needs and config.policy_samples < config.samples:
            raise UserError(
                f"{config.name} needs a policy for its policy_samples ({config.policy_samples}), which this model does "
                "not bring; set policy_samples to 0, or take random, cem, icem or gradient"
            )
        check(config.name, problem, *(needs if config.uniform else [*needs, "continuous"]))
        _check(config, problem)
        self.config, self.problem = config, problem
        self.centre, self.half = middle(problem)

    @property
    def steps(self) -> int:
        """Model steps of one plan."""
        config = self.config
        return config.horizon * (config.samples * config.iterations + config.policy_samples)

    def initial(self, batch_size: int) -> Warm:
        """Return the carry of environments that nothing was planned for."""
        return cold(batch_size, self.config.horizon, self.problem.actions)

    def plan(self, params: Params, key: PRNGKey, latent: Latent, carry: Warm) -> tuple[Plan, Warm]:
        """Search from ``latent [B]`` (see ``Planner``)."""
        model_key, policy_key, start_key, loop_key, pick_key = jax.random.split(key, 5)
        keys = jax.random.split(model_key, self.config.horizon)
        guided = self._policy(params, keys, policy_key, latent)
        searched = self._start(start_key, batch_of(latent), carry)
        body = lambda searched, key: (self._improve(params, keys, latent, guided, searched, key), None)
        searched, _ = jax.lax.scan(body, searched, jax.random.split(loop_key, self.config.iterations))
        sequence = self._choice(searched, pick_key)
        if self.config.noise:
            # By a key of its own, so that without noise nothing is drawn otherwise than before.
            eps = normal(jax.random.fold_in(pick_key, 1), sequence[:, 0].shape)
            sequence = sequence.at[:, 0].set(into_bounds(self.problem, sequence[:, 0] + searched.std[:, 0] * eps))
        weights = searched.weights
        if self.config.choose == "best":  # what is acted on counts alone; the elites are sorted
            weights = jnp.zeros_like(weights).at[:, 0].set(1.0)
        plan = Plan(
            action=sequence[:, 0],
            candidates=searched.elite[:, :, 0],
            weights=weights,
            value=moments(searched.returns, weights)[0],
            spread=moments(searched.returns, searched.weights)[1],
            sequence=sequence,
            fan=roll(self.problem, params, keys, latent, searched.elite)[1],
            tree=None,
            steps=jnp.int32(self.steps),
        )
        # What is drawn to act on is no place to begin from: the mean is carried on then (Hansen et al. 2024). Of a
        # sequence its first action, the one that noise is added to, is not carried on.
        carried = searched.mean if self.config.choose == "sample" else sequence
        return plan, shifted(carried, jnp.ones(sequence.shape[:2]))

    def _start(self, key: PRNGKey, batch: int, carry: Warm) -> Searched:
        """Return the first distribution: wide, around the plan before where it is known."""
        config, half = self.config, self.half[None, None]
        shape = batch, config.horizon, self.problem.actions
        known = carry.known[..., None] if config.shift else jnp.zeros((batch, config.horizon, 1))
        mean = known * carry.sequence + (1 - known) * self.centre[None, None]
        elite = jnp.broadcast_to(mean[:, None], (batch, config.elites, *shape[1:]))
        none = jnp.full((batch, config.elites), -jnp.inf)
        start = Searched(mean, jnp.broadcast_to(config.max_std * half, shape), elite, none, none)
        if config.kept < 2:
            return start
        # Copies of the mean that are kept would be elites all alike: only the first of them stays.
        return start._replace(elite=elite.at[:, 1:].set(self._draw(key, start, config.elites - 1)))

    def _improve(
        self, params: Params, keys: Array, latent: Latent, guided: Array, searched: Searched, key: PRNGKey
    ) -> Searched:
        """Return the distribution one iteration further."""
        config = self.config
        kept = 0 if config.uniform else config.kept
        drawn = self._draw(key, searched, config.samples - guided.shape[1] - kept)
        tried = jnp.concatenate([guided, searched.elite[:, :kept], drawn], 1)
        returns = believed(roll(self.problem, params, keys, latent, tried)[0])
        if config.uniform:  # no distribution carries over what earlier iterations found: the best themselves do
            tried = jnp.concatenate([searched.elite, tried], 1)
            returns = jnp.concatenate([searched.returns, returns], 1)
        best, which = jax.lax.top_k(returns, config.elites)
        elite = take(tried, which)
        sharpness = config.temperature if config.weighting == "softmax" else 0.0
        # Of fewer candidates with a finite return than elites, the rest count nothing.
        logits = jnp.where(best > WORST, sharpness * (best - best[:, :1]), NEVER)
        weights = jax.nn.softmax(logits, -1)
        each = weights[..., None, None]
        mean = (each * elite).sum(1)
        std = jnp.sqrt((each * jnp.square(elite - mean[:, None])).sum(1))
        half = self.half[None, None]
        return Searched(mean, jnp.clip(std, config.min_std * half, config.max_std * half), elite, best, weights)

    def _draw(self, key: PRNGKey, searched: Searched, count: int) -> Float[Array, "B S H A"]:
        """Return new sequences."""
        batch, horizon, actions = searched.mean.shape
        shape = batch, count, horizon, actions
        if self.config.uniform and self.problem.discrete:
            number = parallel.draw(lambda key, shape: jax.random.randint(key, shape, 0, actions), key, shape[:-1], 0)
            return jax.nn.one_hot(number, actions)
        if self.config.uniform:
            unit = parallel.draw(jax.random.uniform, key, shape, axis=0)
            return self.centre[None, None, None] + self.half[None, None, None] * (2 * unit - 1)
        eps = normal(key, shape)
        if self.config.colour > 0:
            eps = jnp.einsum("th,bsha->bsta", jnp.asarray(colouring(horizon, self.config.colour)), eps)
        return into_bounds(self.problem, searched.mean[:, None] + searched.std[:, None] * eps)

    def _policy(self, params: Params, keys: Array, key: PRNGKey, latent: Latent) -> Float[Array, "B P H A"]:
        """Return sequences of the policy."""
        config, problem = self.config, self.problem
        count = config.policy_samples
        if count == 0:
            return jnp.zeros((batch_of(latent), 0, config.horizon, problem.actions))
        eps = normal(key, (batch_of(latent), config.horizon, count, problem.actions))

        def body(latent: Latent, inputs: tuple) -> tuple[Latent, Array]:
            key, eps = inputs
            policy = proposed(problem, params, latent)
            action = into_bounds(problem, trees.act(policy, eps, jnp.zeros(eps.shape[:2], int)))
            action = jnp.where(jnp.isfinite(action), action, self.centre)  # from a latent that is no number
            return branch(problem, params, key, latent, action).latent, action

        _, actions = jax.lax.scan(body, tiled(latent, count), (keys, jnp.swapaxes(eps, 0, 1)))
        return jnp.moveaxis(actions, 0, 2)

    def _choice(self, searched: Searched, key: PRNGKey) -> Float[Array, "B H A"]:
        """Return the sequence that is acted on."""
        if self.config.choose == "mean":
            return searched.mean
        if self.config.choose == "best":
            return searched.elite[:, 0]
        gumbel = parallel.draw(jax.random.gumbel, key, searched.weights.shape, axis=0)
        return take(searched.elite, jnp.argmax(jnp.log(searched.weights) + gumbel, -1)[:, None])[:, 0]


def roll(
    problem: Problem, params: Params, keys: Array, latent: Latent, actions: Float[Array, "B K H A"]
) -> tuple[Float[Array, "B K"], Latent]:
    """Return the discounted return of action sequences, with the critics' mean at the end, and the latents.

    Args:
        problem: to roll forward.
        params: its.
        keys: ``[H]``, of the model's noise, which all K of an environment share.
        latent: to start from, ``[B]``.
        actions: to take.

    Returns:
        returns, and latents ``[B, K, H + 1, ...]`` with the start.
    """
    start = tiled(latent, actions.shape[1])
    zero = jnp.zeros(actions.shape[:2], actions.dtype)

    def body(at: tuple, inputs: tuple) -> tuple[tuple, Latent]:
        (latent, total, weight), (key, action) = at, inputs
        arrival = branch(problem, params, key, latent, action)
        total = total + weight * arrival.reward
        return (arrival.latent, total, weight * problem.discount * arrival.going), arrival.latent

    (last, total, weight), latents = jax.lax.scan(body, (start, zero, zero + 1), (keys, jnp.moveaxis(actions, 2, 0)))
    total = total + weight * worth(problem, params, last, total).mean(0)
    along = jax.tree.map(lambda x, y: jnp.concatenate([x[:, :, None], jnp.moveaxis(y, 0, 2)], 2), start, latents)
    return total, along


def colouring(horizon: int, colour: float) -> np.ndarray:
    """Return ``[H, H]`` that turns white noise into noise of unit variance with a spectrum f^-colour (Timmer 1995)."""
    frequency = np.fft.rfftfreq(horizon)
    frequency[0] = frequency[1] if horizon > 1 else 1.0
    gain = frequency ** (-colour / 2)
    filtered = np.fft.irfft(np.fft.rfft(np.eye(horizon), axis=0) * gain[:, None], horizon, axis=0)
    return (filtered / np.sqrt(np.square(filtered).sum(1, keepdims=True))).astype(np.float32)


def _check(config: ShootingConfig, problem: Problem) -> None:
    least = {"samples": 1, "horizon": 1, "iterations": 1, "elites": 1, "policy_samples": 0, "temperature": 0,
             "min_std": 0, "colour": 0, "kept": 0}
    most = {"samples": 100_000, "iterations": 1000, "horizon": 1000, "colour": 10}
    check_config(config.name, config, least, most)
    if problem.discrete and config.noise:
        raise UserError(f"planner {config.name}: noise must be false, for noise on a discrete action makes no sense")
    if problem.discrete and (config.policy_samples or config.kept or config.choose == "mean"):
        raise UserError(
            f"planner {config.name}: of discrete actions policy_samples and kept must be 0 and choose best or sample; "
            f"got {config.policy_samples}, {config.kept} and {config.choose}"
        )
    if not config.min_std <= config.max_std < float("inf"):
        raise UserError(
            f"planner {config.name}: max_std must be finite and at least min_std ({config.min_std}); got "
            f"{config.max_std}"
        )
    if config.elites > config.samples:
        raise UserError(
            f"planner {config.name}: elites must be at most samples ({config.samples}); got {config.elites}"
        )
    if config.kept > config.elites:
        raise UserError(f"planner {config.name}: kept must be at most elites ({config.elites}); got {config.kept}")
    if config.policy_samples + config.kept > config.samples:
        raise UserError(
            f"planner {config.name}: policy_samples and kept must leave room among {config.samples} samples; got "
            f"{config.policy_samples} and {config.kept}"
        )
