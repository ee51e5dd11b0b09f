"""Actor and critic, learned inside imagination (Hafner et al. 2020, 2023).

Symbols: s latent, a action, r reward, c probability of going on, gamma discount, R lambda-return, v critic.
Rewards and discounts belong to the state arrived in, so R_t = r_{t+1} + gamma c_{t+1} (...), t = 0..H-1.

Estimators of the actor's gradient, with R normalised and w_t = c_0 prod_{0<k<=t} gamma c_k:
    dynamics    sum_t w_t d R_t / d theta along the imagined states, each policy input held fixed (pathwise;
                straight-through where latents are discrete): every imagined state is a start of its own
                (Hafner et al. 2020, eq. 7)
    reinforce   sum_t w_t d log pi(a_t | s_t) / d theta * (R_t - v_t) (Williams 1992; Hafner et al. 2023, eq. 12)
    mix         a convex combination of the two
``through_policy`` makes dynamics the whole derivative d R_0 / d theta, through the policy's answers to the states it
led to as well. With an exact critic and lambda = 1 that agrees in expectation with reinforce, as does the default over
one imagined step. It is off by default, for the chain of model and policy Jacobians can explode: the one run tried so
collapsed on Brax's inverted pendulum.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Float

from mbrl.behaviours.base import Imagined, replay_returns, rows_first
from mbrl.behaviours.policy import ActionDistribution, PolicyHead
from mbrl.core import normalise, parallel
from mbrl.core.distributions import TwoHot
from mbrl.core.errors import UserError, unknown
from mbrl.core.normalise import PercentileConfig, PercentileState
from mbrl.core.returns import lambda_return
from mbrl.core.types import Metrics, Params, PRNGKey, Scalar, TimeStep
from mbrl.nets.heads import Head
from mbrl.nets.precision import Precision, dtype_of
from mbrl.worldmodels.base import Dream, Latent, WorldModel, weigh

Gradient: TypeAlias = Literal["auto", "dynamics", "reinforce", "mix"]

stop = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class ActorCriticConfig:
    """Learning in imagination. Fields left at `None` follow the agent's size."""

    horizon: int = 15
    """Imagined steps H from every replayed state."""
    gamma: float = 0.997
    """Discount per agent step; 1 - 1/333 in DreamerV3."""
    lam: float = 0.95
    """Lambda of the return: 1 sums imagined rewards over the horizon, 0 trusts the critic after one step."""
    gradient: Gradient = "auto"
    """The actor's gradient; auto is dynamics for continuous actions and reinforce for discrete ones."""
    mix: float = 0.5
    """Share of dynamics in `mix`."""
    through_policy: bool = False
    """Whole dynamics gradient, through the policy's answers to imagined states too: unbiased, but explosive.
    It changes nothing for `reinforce`, nor for `auto` with discrete actions."""
    entropy: float = 3e-4
    """Weight of the policy's entropy, against returns normalised to about [0, 1]."""
    actor_layers: int = 3
    """Hidden layers of the actor."""
    critic_layers: int = 3
    """Hidden layers of the critic."""
    units: int | None = None
    """Width of actor and critic."""
    bins: int = 255
    """Bins of the two-hot critic (odd)."""
    min_std: float = 0.1
    """Smallest standard deviation of a continuous policy."""
    max_std: float = 1.0
    """Largest standard deviation of a continuous policy."""
    unimix: float = 0.01
    """Share of uniform mixed into a discrete policy."""
    slow_rate: float = 0.02
    """Rate at which the slow critic follows the critic."""
    slow_scale: float = 1.0
    """Weight that keeps the critic near the slow critic."""
    replay_scale: float = 0.3
    """Weight of the critic's loss on replayed rewards."""
    actor_scale: float = 1.0
    """Weight of the actor's loss; 0 where something else teaches it, see the agent's `distil`."""
    normalise_returns: bool = True
    """Divide returns by their percentile range, so that one entropy weight fits all rewards."""
    percentiles: PercentileConfig = PercentileConfig()
    """That range."""


# What each number is at least.
_LEAST = {"horizon": 1, "units": 1} | dict.fromkeys(
    ("actor_layers", "critic_layers", "entropy", "slow_scale", "replay_scale", "actor_scale"), 0
)


def check(config: ActorCriticConfig) -> None:
    """Raise a UserError for values outside their range."""
    normalise.check(config.percentiles)
    if config.gradient not in get_args(Gradient):
        raise unknown("behaviour.gradient", config.gradient, get_args(Gradient))
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if value is None or not value >= least:
            raise UserError(f"behaviour.{name} must be at least {least}; got {value}")
    for name in ("gamma", "lam", "mix", "unimix", "slow_rate"):
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise UserError(f"behaviour.{name} must lie in [0, 1]; got {value}")
    if config.bins < 3 or config.bins % 2 == 0:
        raise UserError(f"behaviour.bins must be odd and at least 3; got {config.bins}")
    if not 0 < config.min_std <= config.max_std:
        raise UserError(
            f"behaviour.min_std must be positive and at most max_std ({config.max_std}); got {config.min_std}"
        )


class ActorCritic:
    """The behaviour; holds network definitions, never parameters. Knows the model only by its door."""

    def __init__(
        self, config: ActorCriticConfig, model: WorldModel, action_spec: specs.Array, precision: Precision = "f32"
    ) -> None:
        """Describe actor and critic.

        Args:
            config: with every size filled in.
            model: the world model it will dream in.
            action_spec: of one environment.
            precision: of the numbers that actor and critic multiply.

        Raises:
            UserError: for values outside their range, or a precision that the device lacks.
        """
        check(config)
        units = config.units or 0
        self.config, self.model = config, model
        self.policy = PolicyHead(
            action_spec, config.actor_layers, units, (config.min_std, config.max_std), config.unimix, precision
        )
        self.critic = Head(config.critic_layers, units, config.bins, outscale=0.0, dtype=dtype_of(precision))
        automatic = "reinforce" if self.policy.discrete else "dynamics"
        self.gradient = automatic if config.gradient == "auto" else config.gradient

    def init(self, key: PRNGKey) -> dict[str, Params]:
        """Draw the parameters of actor and critic."""
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
        """Return the action for the environment: a sample, the policy's mode, or uniform over the action space."""
        return self.policy.choose(actor, key, self.model.features(latent), mode)

    def value(self, critic: Params, features: Float[Array, "*N F"]) -> TwoHot:
        """Return the critic's distribution over returns."""
        return TwoHot(jnp.asarray(self.critic.apply({"params": critic}, features)))

    def imagine(self, model: Params, params: dict[str, Params], key: PRNGKey, start: Latent) -> Imagined:
        """Dream from ``start [B]``; gradients reach the actor only, through its actions and the dynamics."""
        seen = (lambda latent: latent) if self.config.through_policy else stop
        # REINFORCE takes no gradient through actions: without one, imagination has no backward pass at all.
        learns = self.gradient != "reinforce" and self.config.actor_scale > 0
        actor = params["actor"] if learns else stop(params["actor"])
        policy = lambda latent, key: self.act(actor, seen(latent)).sample(key)
        dream: Dream = self.model.imagine(stop(model), key, stop(start), policy, self.config.horizon)
        prediction = self.model.predict(stop(model), dream.latent)
        features = self.model.features(dream.latent)
        value = self.value(stop(params["critic"]), features).mean()
        goes_on = prediction.discount.mean()
        alive = self.config.gamma * goes_on
        reward = prediction.reward.mean()
        returns = lambda_return(reward[1:], alive[1:], value, self.config.lam)
        # The start counts as far as it is not terminal itself; gamma enters with the first imagined step.
        weight = stop(jnp.cumprod(alive.at[0].set(goes_on[0]), 0))[:-1]
        return Imagined(features, dream.action, returns, value, weight)

    def actor_loss(
        self, actor: Params, imagined: Imagined, returns: PercentileState
    ) -> tuple[Float[Array, "H B"], Metrics]:
        """Return the actor's loss per imagined step and its metrics (module docstring has the equations)."""
        distribution = self.policy.apply(actor, stop(imagined.features[:-1]))
        _, scale = normalise.scale(returns, self.config.percentiles)
        scale = scale if self.config.normalise_returns else jnp.float32(1)
        share = {"dynamics": 1.0, "reinforce": 0.0, "mix": self.config.mix}[self.gradient]
        entropy = distribution.entropy()
        loss = -imagined.weight * self.config.entropy * entropy
        if share > 0:
            pathwise = imagined.weight * imagined.returns / scale
            # The whole derivative has every later return inside R_0 already.
            starts = pathwise.at[1:].set(0.0) if self.config.through_policy else pathwise
            loss = loss - share * starts
        if share < 1:
            advantage = stop((imagined.returns - imagined.value[:-1]) / scale)
            log_prob = distribution.log_prob(stop(imagined.action))
            loss = loss - (1 - share) * imagined.weight * log_prob * advantage
        metrics = {
            "actor/entropy": entropy.mean(),
            "actor/return_scale": scale,
            "actor/action_size": jnp.abs(imagined.action).mean(),
        }
        return loss, metrics

    def critic_loss(
        self, critic: Params, slow: Params, features: Float[Array, "S B F"], target: Float[Array, "T B"]
    ) -> Float[Array, "T B"]:
        """Return the two-hot loss towards returns, plus the pull towards the slow critic (eq. 10).

        There may be more steps of features than of targets: whoever has the critic read them all for another purpose
        passes them all, and the compiler finds that it is one reading.
        """
        steps = target.shape[0]
        value = TwoHot(self.value(critic, features).logits[:steps])
        slow_value = stop(self.value(slow, features[:steps]).mean())
        return -value.log_prob(stop(target)) - self.config.slow_scale * value.log_prob(slow_value)

    def replay_returns(
        self, timestep: TimeStep, bootstrap: Float[Array, "T B"]
    ) -> tuple[Float[Array, "T-1 B"], Float[Array, "T-1 B"]]:
        """Return lambda-returns along replayed rewards and the mask of steps that have one.

        Args:
            timestep: ``[T, B]``.
            bootstrap: an estimate of the return from every step, ``[T, B]``: the imagined one.

        At a truncation the return stops at the bootstrap; from a LAST step there is no return.
        """
        return replay_returns(timestep, bootstrap, self.config.gamma, self.config.lam)

    def loss(
        self,
        params: dict[str, Params],
        model: Params,
        slow: Params,
        returns: PercentileState,
        key: PRNGKey,
        posterior: Latent,
        timestep: TimeStep,
    ) -> tuple[Scalar, tuple[PercentileState, Metrics]]:
        """Return the behaviour's loss, the new return statistics and metrics.

        Args:
            params: ``{"actor", "critic"}``.
            model: the world model's parameters; only the replayed critic loss reaches what made ``posterior``.
            slow: the slow critic's parameters.
            returns: statistics of the return normaliser.
            key: for imagination.
            posterior: filtered latents ``[T, B]``; imagination starts from every one.
            timestep: what they were filtered from, ``[T, B]``.
        """
        steps, batch = timestep.reward.shape
        imagined = self.imagine(model, params, key, rows_first(posterior))
        returns = normalise.update(returns, stop(imagined.returns), self.config.percentiles)
        actor, metrics = self.actor_loss(params["actor"], imagined, returns)
        critic = imagined.weight * self.critic_loss(
            params["critic"], slow, stop(imagined.features), imagined.returns
        )
        target, mask = self.replay_returns(timestep, imagined.returns[0].reshape((batch, steps)).T)
        features = self.model.features(posterior)[:-1]
        replay = mask * self.critic_loss(params["critic"], slow, features, target)
        # From a single step there is no return along the replay, and the mean of nothing would not be a number.
        replay = replay if steps > 1 else jnp.zeros((1, batch))
        losses = {"actor": actor, "critic": critic, "replay_critic": replay}
        weights = {"actor": self.config.actor_scale, "critic": 1.0, "replay_critic": self.config.replay_scale}
        metrics |= {f"loss/{name}": value.mean() for name, value in losses.items()}
        metrics |= {
            "critic/value": imagined.value.mean(),
            "critic/imagined_return": imagined.returns.mean(),
            "critic/replay_return": parallel.masked_mean(target, mask),
        }
        return weigh(losses, weights), (returns, metrics)
