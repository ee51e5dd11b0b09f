"""Policy and value heads that learn from searches and replayed rewards (Schrittwieser et al. 2020, 2021).

Symbols: s latent, r reward, c whether the episode goes on, gamma discount, G lambda-return, v value, U unroll steps.
    G_t = r_{t+1} + gamma c_{t+1} ((1 - lambda) v'(s_{t+1}) + lambda G_{t+1})      v' of the target network
The value is two-hot over symexp-spaced bins. What the policy learns from a search is the agent's to say: this room
knows no planner. Returns are those of whoever acted, however long ago; lambda says how far they are trusted.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Float

from mbrl.behaviours.base import Imagined, replay_returns
from mbrl.behaviours.policy import ActionDistribution, PolicyHead
from mbrl.core import parallel
from mbrl.core.distributions import TwoHot
from mbrl.core.errors import UserError, unknown
from mbrl.core.returns import lambda_return
from mbrl.core.types import Metrics, Params, PRNGKey, TimeStep
from mbrl.nets.heads import Head
from mbrl.nets.precision import Precision, dtype_of
from mbrl.worldmodels.base import Latent, WorldModel

ValueTarget: TypeAlias = Literal["td", "search"]


@dataclasses.dataclass(frozen=True)
class PolicyValueConfig:
    """Policy and value, which learn from searches."""

    gamma: float = 0.997
    """Discount per agent step."""
    lam: float = 0.9
    """Lambda of the value's targets: 1 sums replayed rewards to the sequence's end, 0 trusts the value after one."""
    value_target: ValueTarget = "td"
    """What the value learns: lambda-returns of replayed rewards, or what the search expected."""
    layers: int = 2
    """Hidden layers of each head."""
    units: int = 128
    """Their width."""
    bins: int = 127
    """Bins of the two-hot value (odd)."""
    min_std: float = 0.1
    """Smallest standard deviation of a continuous policy."""
    max_std: float = 1.0
    """Largest standard deviation of a continuous policy."""
    unimix: float = 0.01
    """Share of uniform mixed into a discrete policy."""
    policy_scale: float = 1.0
    """Weight of the policy's loss."""
    value_scale: float = 0.25
    """Weight of the value's loss (Schrittwieser et al. 2021)."""
    entropy: float = 5e-3
    """Weight of the policy's entropy."""
    horizon: int = 5
    """Steps that the policy's own return is imagined for in reports."""


# What each number is at least.
_LEAST = dict.fromkeys(("layers", "units", "horizon"), 1) | dict.fromkeys(("policy_scale", "value_scale", "entropy"), 0)


def check(config: PolicyValueConfig) -> None:
    """Raise a UserError for values outside their range."""
    if config.value_target not in get_args(ValueTarget):
        raise unknown("behaviour.value_target", config.value_target, get_args(ValueTarget))
    for name, least in _LEAST.items():
        if not getattr(config, name) >= least:
            raise UserError(f"behaviour.{name} must be at least {least}; got {getattr(config, name)}")
    for name in ("gamma", "lam", "unimix"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"behaviour.{name} must lie in [0, 1]; got {getattr(config, name)}")
    if config.bins < 3 or config.bins % 2 == 0:
        raise UserError(f"behaviour.bins must be odd and at least 3; got {config.bins}")
    if not 0 < config.min_std <= config.max_std:
        raise UserError(
            f"behaviour.min_std must be positive and at most max_std ({config.max_std}); got {config.min_std}"
        )


class PolicyValue:
    """A ``Behaviour``; holds network definitions, never parameters. Knows the model only by its door."""

    def __init__(
        self, config: PolicyValueConfig, model: WorldModel, action_spec: specs.Array, precision: Precision = "f32"
    ) -> None:
        """Describe the heads.

        Args:
            config: sizes and weights.
            model: whose latents they read.
            action_spec: of one environment.
            precision: of the numbers that the heads multiply.

        Raises:
            UserError: for values outside their range, or a precision that the device lacks.
        """
        check(config)
        self.config, self.model = config, model
        std_range = config.min_std, config.max_std
        self.policy = PolicyHead(action_spec, config.layers, config.units, std_range, config.unimix, precision)
        self.critic = Head(config.layers, config.units, config.bins, outscale=0.0, dtype=dtype_of(precision))
        self.weights = {"policy": config.policy_scale, "value": config.value_scale, "entropy": config.entropy}

    def init(self, key: PRNGKey) -> dict[str, Params]:
        """Draw the parameters of both heads."""
        actor_key, critic_key = jax.random.split(key)
        features = self.model.features(self.model.initial(1))
        return {
            "actor": self.policy.init(actor_key, features),
            "critic": self.critic.init(critic_key, features)["params"],
        }

    def act(self, actor: Params, latent: Latent) -> ActionDistribution:
        """Return the policy in the latents ``[*N]``."""
        return self.policy.apply(actor, self.model.features(latent))

    def choose(
        self, actor: Params, key: PRNGKey, latent: Latent, mode: Literal["train", "eval", "random"]
    ) -> Float[Array, "*N A"]:
        """Return an action of the policy itself: a sample, its mode, or uniform over the action space."""
        return self.policy.choose(actor, key, self.model.features(latent), mode)

    def value(self, critic: Params, latent: Latent) -> TwoHot:
        """Return the distribution over returns in the latents ``[*N]``."""
        return TwoHot(jnp.asarray(self.critic.apply({"params": critic}, self.model.features(latent))))

    def targets(
        self,
        timestep: TimeStep,
        bootstrap: Float[Array, "T B"],
        searched: Float[Array, "T B"],
        known: Float[Array, "T B"],
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"], Metrics]:
        """Return what the value is to be at every step, the mask of steps that have such a target, and metrics.

        Args:
            timestep: replayed, ``[T, B]``.
            bootstrap: the target network's value of every step.
            searched: what a search expected there.
            known: 1 where there was one.
        """
        pad = lambda x: jnp.concatenate([x, jnp.zeros_like(x[:1])])
        returns, mask = (pad(x) for x in replay_returns(timestep, bootstrap, self.config.gamma, self.config.lam))
        metrics = {
            "value/target": parallel.masked_mean(returns, mask),
            # Above 0 the search believes in more than the replayed rewards and the target network show.
            "search/overestimation": parallel.masked_mean(searched - returns, known * mask),
        }
        if self.config.value_target == "search":
            return searched, known * (1.0 - timestep.last()), metrics
        return returns, mask, metrics

    def losses(
        self,
        params: dict[str, Params],
        latent: Latent,
        lesson: Float[Array, "*N"],
        known: Float[Array, "*N"],
        target: Float[Array, "*N"],
        valued: Float[Array, "*N"],
    ) -> dict[str, Float[Array, "*N"]]:
        """Return the losses of both heads in the latents ``[*N]``, unweighted, 0 where there is nothing to learn.

        Args:
            params: ``{"actor", "critic"}``.
            latent: unrolled or represented; gradients reach what made them.
            lesson: what the policy is to descend there: how badly it agrees with a search.
            known: 1 where there is such a search.
            target: what the value is to be.
            valued: 1 where there is such a target.
        """
        value = self.value(params["critic"], latent)
        return {
            "policy": known * lesson,
            "value": valued * -value.log_prob(jax.lax.stop_gradient(target)),
            "entropy": known * -self.act(params["actor"], latent).entropy(),
        }

    def imagine(self, model: Params, params: dict[str, Params], key: PRNGKey, start: Latent) -> Imagined:
        """Dream from ``start [B]`` by the policy alone, without a search; no gradient passes."""
        policy = lambda latent, key: self.act(params["actor"], latent).sample(key)
        dream = self.model.imagine(model, key, start, policy, self.config.horizon)
        prediction = self.model.predict(model, dream.latent)
        value, going = self.value(params["critic"], dream.latent).mean(), prediction.discount.mean()
        alive = self.config.gamma * going
        returns = lambda_return(prediction.reward.mean()[1:], alive[1:], value, 1.0)
        weight = jnp.cumprod(alive.at[0].set(going[0]), 0)[:-1]
        features = self.model.features(dream.latent)
        return jax.lax.stop_gradient(Imagined(features, dream.action, returns, value, weight))
