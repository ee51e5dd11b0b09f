"""The behaviour's door."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core.returns import lambda_return
from mbrl.core.types import Params, PRNGKey, TimeStep
from mbrl.worldmodels.base import Latent

Tree = TypeVar("Tree")


class Imagined(NamedTuple):
    """A dream with what learning needs of it."""

    features: Float[Array, "H+1 B F"]
    action: Float[Array, "H B A"]
    returns: Float[Array, "H B"]  # of the policy, R_0..R_{H-1}, bootstrapped by the critic
    value: Float[Array, "H+1 B"]
    weight: Float[Array, "H B"]  # probability, discounted, that step t is reached


@runtime_checkable
class Behaviour(Protocol):
    """What acts in a world model, as agents see it; it knows the model by its door alone."""

    def init(self, key: PRNGKey) -> dict[str, Params]:
        """Draw parameters; ``"actor"`` is among them."""
        ...

    def choose(
        self, actor: Params, key: PRNGKey, latent: Latent, mode: Literal["train", "eval", "random"]
    ) -> Float[Array, "*N A"]:
        """Return the action for the environment: a sample, the policy's mode, or uniform over the action space."""
        ...

    def imagine(self, model: Params, params: dict[str, Params], key: PRNGKey, start: Latent) -> Imagined:
        """Dream from ``start [B]`` with the model's and the behaviour's parameters."""
        ...


def rows_first(tree: Tree) -> Tree:
    """Return ``[T, B, ...]`` as ``[B T, ...]``.

    What belongs to a sequence lies together, so that devices that share the sequences share the rows alike.
    """
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape((-1, *x.shape[2:])), tree)


def replay_returns(
    timestep: TimeStep, bootstrap: Float[Array, "T B"], gamma: float, lam: float
) -> tuple[Float[Array, "T-1 B"], Float[Array, "T-1 B"]]:
    """Return lambda-returns along replayed rewards and the mask of steps that have one.

    Args:
        timestep: ``[T, B]``.
        bootstrap: an estimate of the return from every step, ``[T, B]``.
        gamma: discount per step.
        lam: lambda.

    At a truncation the return stops at the bootstrap; from a LAST step there is no return.
    """
    after = jax.tree.map(lambda x: x[1:], timestep)
    mixed = lam * (1.0 - after.last())
    return lambda_return(after.reward, gamma * after.discount, bootstrap, mixed), 1.0 - timestep.last()[:-1]
