"""Values by temporal differences and a policy prior, along unrolled latents (Hansen et al. 2024, section 3.2).

Symbols: z latent (its features), a action, r reward, d 0 where the episode ended, gamma discount, Q_k one of K critics,
Q'_k its slow copy, pi the policy, S a running range of Q, H entropy, A how many numbers an action has.
    target   y_t = r_{t+1} + gamma d_{t+1} min over two Q' of Q'_k(z', a'),  z' what was seen, a' ~ pi(z')     (eq. 4)
    critics  rho^t CE(Q_k(z_t, a_t), y_t), mean over k, at the actions taken; its gradient reaches z_t         (eq. 3)
    policy   -rho^t (mean over two Q of Q_k(z_t, a) / S + beta A H(pi(z_t))),  a ~ pi(z_t); not a gradient of z (eq. 5)
The two critics are drawn anew for every loss.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Float

from mbrl.behaviours.base import Imagined
from mbrl.core import normalise
from mbrl.core.distributions import SymlogTwoHot, TanhNormal
from mbrl.core.errors import UserError
from mbrl.core.normalise import PercentileConfig, PercentileState
from mbrl.core.returns import lambda_return
from mbrl.core.types import Metrics, Params, PRNGKey, Scalar, TimeStep, action_dim
from mbrl.nets.mish import MishHead
from mbrl.nets.precision import Precision, dtype_of
from mbrl.worldmodels.base import Dream, Latent, WorldModel, weigh

stop = jax.lax.stop_gradient

PAIR = 2  # critics that a target, or the policy, goes by


@dataclasses.dataclass(frozen=True)
class TemporalDifferenceConfig:
    """Values and the policy prior. Fields left at `None` follow the agent's size."""

    gamma: float | None = None
    """Discount per agent step; `null` for the one that fits `episode_length`."""
    episode_length: int = 1000
    """Agent steps of an episode, from which the discount is guessed."""
    critics: int | None = None
    """Critics K."""
    layers: int = 2
    """Hidden layers of policy and critics."""
    units: int | None = None
    """Their width."""
    bins: int = 101
    """Bins of the two-hot critics (odd)."""
    value_scale: float = 0.1
    """Weight of the critics' loss beside the model's."""
    slow_rate: float = 0.01
    """Rate at which the slow critics follow the critics."""
    entropy: float = 1e-4
    """Weight of the policy's entropy, against values divided by their range."""
    min_log_std: float = -10.0
    """Least logarithm of the policy's deviation before its tanh."""
    max_log_std: float = 2.0
    """Largest."""
    percentiles: PercentileConfig = PercentileConfig()
    """The range of values."""
    horizon: int = 3
    """Steps of the policy that reports imagine; nothing is learned from them."""


# What each number is at least.
_LEAST = {"episode_length": 1, "critics": PAIR, "units": 1, "horizon": 1} | dict.fromkeys(
    ("layers", "value_scale", "entropy"), 0
)


class Path(NamedTuple):
    """R pieces of replayed experience, a model unrolled along each; gradients reach the model through ``features``."""

    features: Float[Array, "H+1 R F"]  # of the unrolled latents, the first of which was encoded
    action: Float[Array, "H R A"]  # that were taken
    seen: Float[Array, "H R F"]  # features of what was seen on arriving
    timestep: TimeStep  # [H, R] that came with it
    decay: Float[Array, "H+1 1"]  # rho^t
    reached: Float[Array, "H+1 R"]  # 0 where another episode is on than in the first step


def check(config: TemporalDifferenceConfig) -> None:
    """Raise a UserError for values outside their range."""
    normalise.check(config.percentiles)
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if value is None or not value >= least:
            raise UserError(f"behaviour.{name} must be at least {least}; got {value}")
    for name in ("gamma", "slow_rate"):
        value = getattr(config, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"behaviour.{name} must lie in [0, 1]; got {value}")
    if config.bins < 3 or config.bins % 2 == 0:
        raise UserError(f"behaviour.bins must be odd and at least 3; got {config.bins}")
    if not config.min_log_std < config.max_log_std < math.inf:
        raise UserError(
            f"behaviour.min_log_std must be below max_log_std ({config.max_log_std}); got {config.min_log_std}"
        )


def discount_for(episode_length: int) -> float:
    """Return the discount that fits episodes of that many agent steps: 1 - 5 / length, from 0.95 to 0.995.

    (Hansen et al. 2024, appendix on hyperparameters: a fifth of an episode is how far ahead is looked.)
    """
    return min(max(1 - 5 / episode_length, 0.95), 0.995)


class TemporalDifference:
    """A ``Behaviour``; holds network definitions, never parameters. Knows the model only by its door."""

    def __init__(
        self,
        config: TemporalDifferenceConfig,
        model: WorldModel,
        action_spec: specs.Array,
        precision: Precision = "f32",
    ) -> None:
        """Describe policy and critics.

        Args:
            config: with every size filled in.
            model: the world model whose latents are valued.
            action_spec: of one environment; continuous.
            precision: of the numbers that policy and critics multiply.

        Raises:
            UserError: for discrete actions, values outside their range, or a precision that the device lacks.
        """
        check(config)
        if isinstance(action_spec, specs.DiscreteArray):
            raise UserError(
                f"tdmpc2 takes continuous actions only and this environment has {action_spec.num_values} discrete "
                "ones; take another agent, such as dreamer"
            )
        self.config, self.model, self.actions = config, model, action_dim(action_spec)
        self.gamma = discount_for(config.episode_length) if config.gamma is None else config.gamma
        units, dtype = config.units or 0, dtype_of(precision)
        self.policy = MishHead(config.layers, units, 2 * self.actions, dtype=dtype)
        self.critic = MishHead(config.layers, units, config.bins, silent=True, dtype=dtype)

    def init(self, key: PRNGKey) -> dict[str, Params]:
        """Draw the parameters of policy (``"actor"``) and critics, all K of them in the leading axis."""
        actor_key, critic_key = jax.random.split(key)
        features = self.model.features(self.model.initial(1))
        inputs = jnp.concatenate([features, jnp.zeros((1, self.actions))], -1)
        critic = lambda key: self.critic.init(key, inputs)["params"]
        return {
            "actor": self.policy.init(actor_key, features)["params"],
            "critic": jax.vmap(critic)(jax.random.split(critic_key, self.config.critics or 0)),
        }

    def prior(self, actor: Params, features: Float[Array, "*N F"]) -> TanhNormal:
        """Return the policy: tanh of normals whose log-deviation is squashed into its range."""
        mean, raw = jnp.split(jnp.asarray(self.policy.apply({"params": actor}, features)), 2, -1)
        low, high = self.config.min_log_std, self.config.max_log_std
        return TanhNormal(mean, jnp.exp(low + (high - low) * (jnp.tanh(raw) + 1) / 2))

    def act(self, actor: Params, latent: Latent) -> TanhNormal:
        """Return the policy in the latents ``[*N]``."""
        return self.prior(actor, self.model.features(latent))

    def choose(
        self, actor: Params, key: PRNGKey, latent: Latent, mode: Literal["train", "eval", "random"]
    ) -> Float[Array, "*N A"]:
        """Return an action without planning: a sample, the policy's mode, or uniform over the action space."""
        policy = self.act(actor, latent)
        if mode == "random":
            return jax.random.uniform(key, policy.loc.shape, minval=-1.0, maxval=1.0)
        return policy.sample(key) if mode == "train" else policy.mode()

    def critics(self, critic: Params, features: Float[Array, "*N F"], action: Float[Array, "*N A"]) -> SymlogTwoHot:
        """Return what each of the critics in the leading axis thinks of actions, ``[K, *N]``."""
        inputs = jnp.concatenate([features, action], -1)
        return SymlogTwoHot(jax.vmap(lambda one: jnp.asarray(self.critic.apply({"params": one}, inputs)))(critic))

    def values(
        self, critic: Params, features: Float[Array, "*N F"], action: Float[Array, "*N A"]
    ) -> Float[Array, "K *N"]:
        """Return their means."""
        return self.critics(critic, features, action).mean()

    def some(
        self, critic: Params, key: PRNGKey, features: Float[Array, "*N F"], action: Float[Array, "*N A"]
    ) -> Float[Array, "2 *N"]:
        """Return the values of two critics, drawn by the key."""
        which = jax.random.permutation(key, self.config.critics or 0)[:PAIR]
        return self.values(jax.tree.map(lambda x: x[which], critic), features, action)

    def target(
        self,
        actor: Params,
        slow: Params,
        key: PRNGKey,
        following: Float[Array, "*N F"],
        reward: Float[Array, "*N"],
        discount: Float[Array, "*N"],
    ) -> Float[Array, "*N"]:
        """Return the target y; no gradient passes.

        Args:
            actor: the policy's parameters.
            slow: the slow critics'.
            key: for the action and for which two critics.
            following: features of what was seen on arriving.
            reward: on arriving.
            discount: 0 where the episode terminated there.
        """
        action_key, pair_key = jax.random.split(key)
        action = self.prior(actor, following).sample(action_key, axis=following.ndim - 2)
        worth = self.some(slow, pair_key, following, action).min(0)
        return stop(reward + self.gamma * discount * worth)

    def critic_loss(
        self,
        critic: Params,
        features: Float[Array, "*N F"],
        action: Float[Array, "*N A"],
        target: Float[Array, "*N"],
    ) -> Float[Array, "*N"]:
        """Return the two-hot loss of the actions that were taken, the mean over the critics."""
        said = self.critics(critic, features, action)
        return -said.log_prob(jnp.broadcast_to(stop(target), said.logits.shape[:-1])).mean(0)

    def actor_loss(
        self, actor: Params, critic: Params, key: PRNGKey, features: Float[Array, "S R F"], returns: PercentileState
    ) -> tuple[Float[Array, "S R"], PercentileState, Metrics]:
        """Return the policy's loss in latents, the new range of values, and metrics; its gradient reaches it alone.

        The range is taken of the first of the S latents of each row, those that were encoded.
        """
        action_key, pair_key = jax.random.split(key)
        features, critic = stop(features), stop(critic)
        action, log_prob = self.prior(actor, features).sample_and_log_prob(action_key, axis=1)
        worth = self.some(critic, pair_key, features, action).mean(0)
        returns = normalise.update(returns, worth[0], self.config.percentiles)
        _, scale = normalise.scale(returns, self.config.percentiles)
        loss = -(worth / scale - self.config.entropy * self.actions * log_prob)
        metrics = {
            "actor/entropy": -log_prob.mean(),
            "actor/value_scale": scale,
            "actor/action_size": jnp.abs(action).mean(),
            "critic/value": worth[0].mean(),
        }
        return loss, returns, metrics

    def loss(
        self, params: dict[str, Params], slow: Params, returns: PercentileState, key: PRNGKey, path: Path
    ) -> tuple[Scalar, tuple[PercentileState, Metrics]]:
        """Return the loss of critics and policy, the new range of values, and metrics.

        Args:
            params: ``{"actor", "critic"}``.
            slow: the slow critics' parameters.
            returns: the running range of values.
            key: for actions, and for which critics are asked.
            path: to learn along.
        """
        target_key, policy_key = jax.random.split(key)
        reward, discount = path.timestep.reward, path.timestep.discount
        target = self.target(params["actor"], slow, target_key, path.seen, reward, discount)
        value = self.critic_loss(params["critic"], path.features[:-1], path.action, target)
        policy, returns, metrics = self.actor_loss(
            params["actor"], params["critic"], policy_key, path.features, returns
        )
        losses = {
            "value": path.decay[:-1] * path.reached[1:] * value,
            "policy": path.decay * path.reached * policy,
        }
        metrics |= {f"loss/{name}": each.mean() for name, each in losses.items()} | {"critic/target": target.mean()}
        return weigh(losses, {"value": self.config.value_scale, "policy": 1.0}), (returns, metrics)

    def imagine(self, model: Params, params: dict[str, Params], key: PRNGKey, start: Latent) -> Imagined:
        """Dream of the policy, without planning, from ``start [B]``, for reports; no gradient passes.

        Returns are sums of imagined rewards over the horizon, bootstrapped by the mean of the critics.
        """
        model, params = stop((model, params))
        dream_key, last_key = jax.random.split(key)
        policy = lambda latent, key: self.act(params["actor"], latent).sample(key)
        dream: Dream = self.model.imagine(model, dream_key, start, policy, self.config.horizon)
        prediction = self.model.predict(model, dream.latent)
        features = self.model.features(dream.latent)
        last = self.prior(params["actor"], features[-1]).sample(last_key)
        value = self.values(params["critic"], features, jnp.concatenate([dream.action, last[None]])).mean(0)
        going = prediction.discount.mean()
        alive = self.gamma * going
        returns = lambda_return(prediction.reward.mean()[1:], alive[1:], value, 1.0)
        weight = jnp.cumprod(alive.at[0].set(going[0]), 0)[:-1]
        return Imagined(features, dream.action, returns, value, weight)
