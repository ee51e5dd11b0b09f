"""The world model's door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mbrl.core.distributions import Bernoulli, Distribution
from mbrl.core.types import Metrics, Params, PRNGKey, Scalar, Sequence, TimeStep

Latent: TypeAlias = PyTree
Policy: TypeAlias = Callable[[Latent, PRNGKey], Array]


class Posterior(NamedTuple):
    """Filtered states of real data; T is one less than the sequence's, whose first step is context."""

    latent: Latent  # [T, B, ...]
    statistics: Array  # [T, B, ...] of the distribution the stochastic part was drawn from


class Dream(NamedTuple):
    """An imagined rollout: ``latent[t + 1]`` is where ``action[t]`` led from ``latent[t]``."""

    latent: Latent  # [H + 1, B, ...]
    action: Float[Array, "H B A"]


class Prediction(NamedTuple):
    """What the model expects on arriving in a latent."""

    reward: Distribution
    discount: Bernoulli  # probability that the episode goes on; the behaviour's own discount is not in it
    observation: dict[str, Distribution]


class ModelOutput(NamedTuple):
    """What the loss computed on the way."""

    posterior: Posterior
    losses: dict[str, Array]  # [T, B] unreduced and unweighted, one per name
    metrics: Metrics


@runtime_checkable
class WorldModel(Protocol):
    """A model of one task's dynamics; pure functions of explicit parameters.

    A ``latent`` is a pytree whose leaves are ``[*N, ...]``.
    """

    def init(self, key: PRNGKey) -> Params:
        """Draw parameters."""
        ...

    def initial(self, batch_size: int) -> Latent:
        """Return the latent before anything was seen, ``[B, ...]``."""
        ...

    def features(self, latent: Latent) -> Float[Array, "*N F"]:
        """Return the latent as one vector, for policies, critics and heads."""
        ...

    def step(self, params: Params, key: PRNGKey, latent: Latent, action: Array, timestep: TimeStep) -> Latent:
        """Filter one time step: the latent ``[B]`` after ``action [B, A]`` led to ``timestep [B]``.

        Where the time step is FIRST, latent and action are forgotten.
        """
        ...

    def observe(self, params: Params, key: PRNGKey, latent: Latent, sequence: Sequence) -> Posterior:
        """Filter a sequence ``[T + 1, B]``; ``latent [B]`` is the state after the sequence's first step."""
        ...

    def imagine(
        self, params: Params, key: PRNGKey, latent: Latent, policy: Policy | Array, horizon: int
    ) -> Dream:
        """Roll the prior forward from ``latent [B]`` under a policy or given actions ``[H, B, A]``."""
        ...

    def predict(self, params: Params, latent: Latent) -> Prediction:
        """Return reward, discount and observation in the latents ``[*N]``."""
        ...

    def loss(self, params: Params, key: PRNGKey, sequence: Sequence) -> tuple[Scalar, ModelOutput]:
        """Return the training loss on a sequence ``[T + 1, B]`` and what was computed on the way."""
        ...

    def pack(self, latent: Latent) -> PyTree:
        """Return the latent in the smallest form replay can store, with the same leading axes."""
        ...

    def unpack(self, packed: PyTree) -> Latent:
        """Return the latent that ``pack`` stored."""
        ...


def weigh(losses: dict[str, Array], weights: dict[str, float]) -> Scalar:
    """Return the sum over names of weight times mean; losses and weights must have the same names."""
    assert losses.keys() == weights.keys(), (sorted(losses), sorted(weights))
    return sum((weights[name] * loss.mean() for name, loss in losses.items()), start=jnp.float32(0))


def into_box(action: Float[Array, "*N A"]) -> Float[Array, "*N A"]:
    """Return actions that were sampled beyond [-1, 1] shrunk to it, without losing their gradient."""
    return action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))


def prepend(first: Latent, rest: Latent) -> Latent:
    """Return the latents ``[1 + T, ...]`` that begin with ``first [...]`` and go on with ``rest [T, ...]``."""
    return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, rest)


def roll(
    move: Callable[[Latent, Array, Any], Latent],
    latent: Latent,
    policy: Policy | Array,
    key: PRNGKey,
    noise: PyTree,
    wrap: Callable[[Callable], Callable] = lambda body: body,
) -> Dream:
    """Roll a model forward: what every ``imagine`` does around the model's own step.

    Args:
        move: ``(latent [B], action [B, A], noise) -> latent [B]``, one step.
        latent: to start from.
        policy: chooses actions, or the actions ``[H, B, A]`` themselves.
        key: for the policy.
        noise: of each step, ``[H, ...]``.
        wrap: what to make of the scan's body, ``jax.checkpoint`` perhaps.
    """
    horizon = jax.tree.leaves(noise)[0].shape[0]
    choices = jax.random.split(key, horizon) if callable(policy) else policy

    def body(latent: Latent, inputs: tuple) -> tuple[Latent, tuple[Latent, Array]]:
        choice, noise = inputs
        action = policy(latent, choice) if callable(policy) else choice
        latent = move(latent, action, noise)
        return latent, (latent, action)

    _, (latents, actions) = jax.lax.scan(wrap(body), latent, (choices, noise))
    return Dream(prepend(latent, latents), actions)
