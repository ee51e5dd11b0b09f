"""What agents that filter with a world model and learn by gradient have in common."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from mbrl.agents.base import ActOutput, Mode
from mbrl.behaviours.base import Behaviour
from mbrl.core.errors import UserError
from mbrl.core.types import Params, PRNGKey, Sequence, Spec, TimeStep, action_dim
from mbrl.worldmodels.base import Latent, WorldModel

Tree = TypeVar("Tree")


class Memory(NamedTuple):
    """What acting remembers of N environments."""

    latent: Latent  # [N, ...]
    action: Float[Array, "N A"]  # the last action taken


def act(
    model: WorldModel,
    behaviour: Behaviour,
    params: dict[str, Params],
    key: PRNGKey,
    memory: Memory,
    timestep: TimeStep,
    mode: Mode,
) -> ActOutput:
    """Filter what was seen and choose.

    Args:
        model: filters.
        behaviour: chooses.
        params: the model's under ``"model"``, the policy's under ``"actor"``.
        key: for both.
        memory: of N environments.
        timestep: what they say, ``[N]``.
        mode: see ``Agent``.
    """
    filter_key, policy_key = jax.random.split(key)
    latent = model.step(params["model"], filter_key, memory.latent, memory.action, timestep)
    action = behaviour.choose(params["actor"], policy_key, latent, mode)
    return ActOutput(action, Memory(latent, action), model.pack(latent))


def fresh_context(model: WorldModel, sequence: Sequence, posterior: Latent) -> PyTree:
    """Return the contexts of ``sequence [T + 1, B]`` with those after the first from ``posterior [T, B]``."""
    return jax.tree.map(lambda old, new: old.at[1:].set(new), sequence.context, model.pack(posterior))


def is_finite(tree: PyTree) -> Bool[Array, ""]:
    """Return whether every number in a tree is finite."""
    return jnp.isfinite(ravel_pytree(tree)[0]).all()


def keep(finite: Bool[Array, ""], new: Tree, old: Tree) -> Tree:
    """Return the new tree, or the old one bit for bit where something was not finite; the runner counts and stops."""
    return jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, old)


def one_action(agent: str, action_spec: Spec) -> Any:
    """Return the spec of the one action array.

    Raises:
        UserError: there is a dict of them, or an action holds no numbers.
    """
    if isinstance(action_spec, dict):
        raise UserError(f"{agent} takes one action array; this environment's action_spec is a dict: flatten it")
    if action_dim(action_spec) == 0:
        shape = tuple(action_spec.shape)
        raise UserError(f"{agent} needs actions of at least one number; this environment's have shape {shape}")
    return action_spec
