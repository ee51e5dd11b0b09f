"""What a trained model says about recorded experience, for every agent that has a world model and dreams in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mbrl.agents.base import Diagnosis
from mbrl.behaviours.base import Behaviour
from mbrl.core.types import Params, PRNGKey, Sequence, as_dict
from mbrl.worldmodels.base import Latent, Prediction, WorldModel, prepend

Promise: TypeAlias = Callable[[PRNGKey, Latent], tuple[Array, Array]]


def diagnose(
    model: WorldModel,
    behaviour: Behaviour,
    params: dict[str, Params],
    key: PRNGKey,
    sequence: Sequence,
    context: int,
) -> Diagnosis:
    """Compare a model with ``sequence [T, B]`` (see ``Diagnosis``).

    Args:
        model: the world model.
        behaviour: dreams in it.
        params: the model's under ``"model"``, and the behaviour's.
        key: for the filter, the open-loop dream and the policy's dreams.
        sequence: recorded experience with the contexts that replay would have stored.
        context: how many of its steps the model sees before it predicts the rest from the actions alone.
    """

    def promise(key: PRNGKey, start: Latent) -> tuple[Array, Array]:
        imagined = behaviour.imagine(params["model"], params, key, start)
        return imagined.returns[0], imagined.value[0]

    return compare(model, promise, params["model"], key, sequence, context)


def compare(
    model: WorldModel, promise: Promise, weights: Params, key: PRNGKey, sequence: Sequence, context: int
) -> Diagnosis:
    """Compare a model with ``sequence [T, B]``, whatever it is that acts in it.

    Args:
        model: the world model.
        promise: ``(key, latent [N]) -> (return [N], value [N])``, imagined, of what acts.
        weights: the model's parameters.
        key: see ``diagnose``.
        sequence: see ``diagnose``.
        context: see ``diagnose``.
    """
    horizon, lead = sequence.action.shape[0] - context, sequence.action.shape[:2]
    filter_key, dream_key, policy_key = jax.random.split(key, 3)
    start = model.unpack(jax.tree.map(lambda x: x[0], sequence.context))
    after = model.observe(weights, filter_key, start, sequence).latent
    latent = prepend(start, after)
    last = jax.tree.map(lambda x: x[context - 1], latent)
    dream = model.imagine(weights, dream_key, last, sequence.action[context - 1 : -1], horizon)
    opened = jax.tree.map(lambda seen, dreamt: jnp.concatenate([seen[:context], dreamt[1:]]), latent, dream.latent)
    flat = jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), latent)
    returns, value = promise(policy_key, flat)
    filtered, open_loop = model.predict(weights, latent), model.predict(weights, opened)
    return Diagnosis(
        observation=_observations(filtered, sequence),
        reward=filtered.reward.mean(),
        discount=filtered.discount.mean(),
        value=value.reshape(lead),
        imagined_return=returns.reshape(lead),
        open_loop_observation=_observations(open_loop, sequence),
        open_loop_reward=open_loop.reward.mean(),
        open_loop_discount=open_loop.discount.mean(),
    )


def _observations(prediction: Prediction, sequence: Sequence) -> dict[str, Array]:
    """Return the observations' expectations in their own shapes, ``[T, B, ...]``."""
    seen = as_dict(sequence.timestep.observation)
    return {name: head.mean().reshape(seen[name].shape) for name, head in prediction.observation.items()}
