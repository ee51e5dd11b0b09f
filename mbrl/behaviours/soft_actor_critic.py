"""Soft actor-critic on branched rollouts (Haarnoja et al. 2018b; Janner et al. 2019, algorithm 2).

Symbols: s latent, a action, r reward, c probability of going on, gamma discount, alpha temperature, E entropy target,
Q_1, Q_2 the critics, Q' their slow copies, pi the policy. Reward and c belong to the state arrived in, s'.
    target       y = r + gamma c (min_i Q'_i(s', a') - alpha log pi(a' | s')),  a' ~ pi(s')    (2018b, eq. 3 and 5)
    critics      mean over i of 1/2 (Q_i(s, a) - y)^2                                          (eq. 5)
    actor        alpha log pi(a | s) - min_i Q_i(s, a),  a ~ pi(s) reparameterised             (eq. 9)
    temperature  -log alpha (log pi(a | s) + E)                                                (eq. 18, for log alpha)
From every replayed state H steps are imagined under the policy as it is; each imagined step weighs the probability
that it is reached. Their targets may be lambda-returns over those steps (Feinberg et al. 2018, value expansion): soft
rewards r - gamma c alpha log pi(a' | s') in place of r, and min_i Q'_i(s', a') as the value. No gradient passes
through the model: the actor learns from the critics alone.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Float

from mbrl.behaviours.base import Imagined, rows_first
from mbrl.behaviours.policy import TanhPolicyHead
from mbrl.core import normalise
from mbrl.core.distributions import TanhNormal
from mbrl.core.errors import UserError
from mbrl.core.returns import lambda_return
from mbrl.core.types import Metrics, Params, PRNGKey, Scalar, Sequence, TimeStep
from mbrl.nets.heads import Head
from mbrl.nets.precision import Precision, dtype_of
from mbrl.worldmodels.base import Dream, Latent, Prediction, WorldModel, prepend, weigh

stop = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class SoftActorCriticConfig:
    """Learning from branched rollouts."""

    horizon: int = 1
    """Imagined steps from every replayed state."""
    lam: float = 0.0
    """λ of what the critics learn from imagined steps: at 0 one step of reward each, as in the paper; above, they
    hear of rewards up to `horizon` steps ahead at once, for imagined steps are the policy's own."""
    gamma: float = 0.99
    """Discount per agent step."""
    real_share: float = 0.05
    """Weight of the replayed steps in the critics' loss; the imagined ones have the rest."""
    actor_layers: int = 2
    """Hidden layers of the actor."""
    critic_layers: int = 2
    """Hidden layers of each critic."""
    units: int = 256
    """Width of actor and critics."""
    slow_rate: float = 0.005
    """Rate at which the slow critics follow the critics."""
    temperature: float = 0.1
    """Weight of the entropy at first; from then on it is learned."""
    whiten: bool = False
    """Bring what actor and critics see to mean 0 and deviation 1, by running moments of what was replayed; for states
    whose entries differ much in size, such as centimetres beside radians a second."""
    target_entropy: float | None = None
    """Entropy in nats the policy is kept at; `null` for minus the number of actions."""
    min_std: float = 0.01
    """Smallest deviation of the policy before its tanh."""
    max_std: float = 7.0
    """Largest deviation of the policy before its tanh."""


_MOMENTS_RATE = 1e-3  # least share of the newest batch in the running moments, as in the ensemble
_CONSTANT = 1e-8  # variance below which an entry has not changed yet

# What each number is at least.
_LEAST = {"horizon": 1, "units": 1, "actor_layers": 0, "critic_layers": 0}


class Steps(NamedTuple):
    """Replayed steps ``[T, B]``: in ``before`` the action was taken, and ``after`` is what came of it."""

    before: Latent
    action: Float[Array, "*N A"]
    after: Latent
    timestep: TimeStep  # that came with ``after``


class Transition(NamedTuple):
    """Steps to learn from, one per row; no gradient passes."""

    features: Float[Array, "R F"]
    action: Float[Array, "R A"]
    reward: Float[Array, "R"]
    going: Float[Array, "R"]  # probability that the episode goes on afterwards
    following: Float[Array, "R F"]  # features of the state arrived in
    weight: Float[Array, "R"]  # probability that the step is reached


def check(config: SoftActorCriticConfig) -> None:
    """Raise a UserError for values outside their range."""
    for name, least in _LEAST.items():
        if not getattr(config, name) >= least:
            raise UserError(f"behaviour.{name} must be at least {least}; got {getattr(config, name)}")
    for name in ("lam", "gamma", "real_share", "slow_rate"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"behaviour.{name} must lie in [0, 1]; got {getattr(config, name)}")
    if config.lam and config.horizon == 1:
        raise UserError(f"behaviour.lam {config.lam} needs behaviour.horizon to be 2 or more, not 1; or set it to 0")
    _check_finite(config)
    if not config.temperature > 0:
        raise UserError(f"behaviour.temperature must be above 0; got {config.temperature}")
    if not 0 < config.min_std < config.max_std:
        raise UserError(
            f"behaviour.min_std must be positive and below max_std ({config.max_std}); got {config.min_std}"
        )


def _check_finite(config: SoftActorCriticConfig) -> None:
    for name in ("temperature", "target_entropy", "max_std"):
        value = getattr(config, name)
        if value is not None and not math.isfinite(value):
            raise UserError(f"behaviour.{name} must be finite; got {value}")


def replayed_steps(start: Latent, posterior: Latent, sequence: Sequence) -> Steps:
    """Return the steps of a replayed sequence ``[T + 1, B]``.

    Args:
        start: latents of its first step, ``[B]``.
        posterior: of all others, ``[T, B]``.
        sequence: what they were filtered from.
    """
    before = jax.tree.map(lambda x: x[:-1], prepend(start, posterior))
    return Steps(before, sequence.action[:-1], posterior, jax.tree.map(lambda x: x[1:], sequence.timestep))


def some_times(steps: Steps, key: PRNGKey, most: int) -> Steps:
    """Return the replayed steps of ``most`` of the times ``[T]``, drawn anew by each key, or of all if fewer.

    Whole times, so that devices that have some of the sequences each take the same.
    """
    length = steps.action.shape[0]
    if length <= most:
        return steps
    times = jnp.argsort(jax.random.uniform(key, (length,)))[:most]
    return jax.tree.map(lambda x: x[times], steps)


class SoftActorCritic:
    """A ``Behaviour``; holds network definitions, never parameters. Knows the model only by its door."""

    def __init__(
        self, config: SoftActorCriticConfig, model: WorldModel, action_spec: specs.Array, precision: Precision = "f32"
    ) -> None:
        """Describe actor and critics.

        Args:
            config: sizes, rates and weights.
            model: the world model it will dream in.
            action_spec: of one environment; continuous.
            precision: of the numbers that actor and critics multiply.

        Raises:
            UserError: for discrete actions, values outside their range, or a precision that the device lacks.
        """
        check(config)
        if isinstance(action_spec, specs.DiscreteArray):
            raise UserError(
                f"soft actor-critic takes continuous actions only and this environment has {action_spec.num_values} "
                "discrete ones; take another agent, such as dreamer"
            )
        self.config, self.model = config, model
        std_range = config.min_std, config.max_std
        self.policy = TanhPolicyHead(action_spec, config.actor_layers, config.units, std_range, 0.0, precision)
        self.critic = Head(config.critic_layers, config.units, 1, outscale=0.0, dtype=dtype_of(precision))
        target = config.target_entropy
        self.target_entropy = -float(self.policy.size) if target is None else target

    def init(self, key: PRNGKey) -> dict[str, Params]:
        """Draw the parameters of actor, critics (the two of them in the leading axis) and temperature."""
        actor_key, critic_key = jax.random.split(key)
        features = self.model.features(self.model.initial(1))
        inputs = jnp.concatenate([features, jnp.zeros((1, self.policy.size))], -1)
        critic = lambda key: self.critic.init(key, inputs)["params"]
        critics = jax.vmap(critic)(jax.random.split(critic_key, 2))
        seen = normalise.init_moments(features.shape[-1])
        return {
            "actor": self._with_moments(self.policy.init(actor_key, features), seen),
            "critic": self._with_moments(critics, jax.tree.map(lambda x: jnp.stack([x, x]), seen)),
            "temperature": {"log": jnp.log(jnp.float32(self.config.temperature))},
        }

    def measure(
        self, params: dict[str, Params], slow: Params, steps: Steps
    ) -> tuple[dict[str, Params], Params]:
        """Return parameters and slow critics with the running moments of what they see one batch further.

        They are among the parameters, where no gradient reaches them; without ``whiten`` there are none.
        """
        if not self.config.whiten:
            return params, slow
        features, counts = self.model.features(steps.before), 1.0 - steps.timestep.first()
        seen = normalise.update_moments(params["actor"]["seen"], features, counts, _MOMENTS_RATE)
        both = {"seen": jax.tree.map(lambda x: jnp.stack([x, x]), seen)}
        actor, critic = params["actor"] | {"seen": seen}, params["critic"] | both
        return params | {"actor": actor, "critic": critic}, slow | both

    def _with_moments(self, params: Params, seen: normalise.Moments) -> Params:
        return {**params, "seen": seen} if self.config.whiten else params

    def _see(self, params: Params, features: Float[Array, "*N F"]) -> Float[Array, "*N F"]:
        """Return what a network reads of features; what has not changed yet, such as a constant 1, stays as it is."""
        if not self.config.whiten:
            return features
        seen = params["seen"]
        varied = stop(seen.variance > _CONSTANT).reshape((1,) * (features.ndim - 1) + (-1,))
        return jnp.where(varied, normalise.whiten(seen, features), features)

    def _policy(self, actor: Params, features: Float[Array, "*N F"]) -> TanhNormal:
        return self.policy.apply(actor, self._see(actor, features))

    def act(self, actor: Params, latent: Latent) -> TanhNormal:
        """Return the policy in the latents ``[*N]``."""
        return self._policy(actor, self.model.features(latent))

    def choose(
        self, actor: Params, key: PRNGKey, latent: Latent, mode: Literal["train", "eval", "random"]
    ) -> Float[Array, "*N A"]:
        """Return the action for the environment: a sample, the policy's mode, or uniform over the action space."""
        return self.policy.choose(actor, key, self._see(actor, self.model.features(latent)), mode)

    def values(
        self, critic: Params, features: Float[Array, "*N F"], action: Float[Array, "*N A"]
    ) -> Float[Array, "2 *N"]:
        """Return what both critics think of actions."""

        def value(one: Params) -> Float[Array, "*N"]:
            inputs = jnp.concatenate([self._see(one, features), action], -1)
            return jnp.asarray(self.critic.apply({"params": one}, inputs))[..., 0]

        return jax.vmap(value)(critic)

    def imagine(self, model: Params, params: dict[str, Params], key: PRNGKey, start: Latent) -> Imagined:
        """Dream from ``start [B]``; no gradient passes.

        Returns are sums of imagined rewards over the horizon, bootstrapped by the lesser critic; beyond the horizon
        they are therefore soft: they hold the entropy to come, times the temperature.
        """
        params = stop(params)
        dream_key, last_key = jax.random.split(key)
        dream, prediction = self._dream(model, params["actor"], dream_key, start)
        features = self.model.features(dream.latent)
        last = self._policy(params["actor"], features[-1]).sample(last_key)
        value = self.values(params["critic"], features, jnp.concatenate([dream.action, last[None]])).min(0)
        going = prediction.discount.mean()
        alive = self.config.gamma * going
        returns = lambda_return(prediction.reward.mean()[1:], alive[1:], value, 1.0)
        weight = jnp.cumprod(alive.at[0].set(going[0]), 0)[:-1]
        return stop(Imagined(features, dream.action, returns, value, weight))

    def imagined(self, model: Params, actor: Params, key: PRNGKey, steps: Steps) -> Transition:
        """Return what is imagined from the states that replayed steps ``[T, B]`` led to: ``R = B T H`` steps.

        Of a start it is known whether the episode went on there; of imagined states the model says it.
        """
        dream, prediction = self._dream(model, actor, key, rows_first(steps.after))
        features, going = self.model.features(dream.latent), prediction.discount.mean()
        reached = jnp.cumprod(going.at[0].set(rows_first(steps.timestep.discount)), 0)
        parts = features[:-1], dream.action, prediction.reward.mean()[1:], going[1:], features[1:], reached[:-1]
        return stop(Transition(*rows_first(parts)))

    def replayed(self, steps: Steps) -> Transition:
        """Return replayed steps ``[T, B]`` as ``R = B T`` rows; from one episode to the next there is none."""
        timestep = steps.timestep
        before, after = self.model.features(steps.before), self.model.features(steps.after)
        parts = before, steps.action, timestep.reward, timestep.discount, after, 1.0 - timestep.first()
        return stop(Transition(*rows_first(parts)))

    def target(
        self, params: dict[str, Params], slow: Params, key: PRNGKey, transition: Transition, steps: int = 1
    ) -> Float[Array, "R"]:
        """Return the soft Bellman target y; no gradient passes.

        Args:
            params: of actor and temperature.
            slow: the slow critics' parameters.
            key: for the actions that are valued.
            transition: rows, each ``steps`` of which follow one another, under the policy as it is.
            steps: how many rows ahead lambda-returns see, at most; 1 is the one-step target.
        """
        action, log_prob = self._policy(params["actor"], transition.following).sample_and_log_prob(key)
        worth = self.values(slow, transition.following, action).min(0)
        alive = self.config.gamma * transition.going
        # Where a lambda-return goes on with an action of its own, this one's entropy stands for that one's: their mean
        # is the same, and a density need not be read off actions at the edge, where tanh has swallowed its digits.
        reward = transition.reward - alive * jnp.exp(params["temperature"]["log"]) * log_prob
        reward, alive, worth = (x.reshape((-1, steps)).T for x in (reward, alive, worth))
        returns = lambda_return(reward, alive, jnp.concatenate([worth[:1], worth]), self.config.lam)
        return stop(returns.T.reshape(-1))

    def critic_loss(
        self, critic: Params, transition: Transition, target: Float[Array, "R"]
    ) -> Float[Array, "R"]:
        """Return the critics' squared error at the actions that were taken, weighted."""
        values = self.values(critic, transition.features, transition.action)
        return transition.weight * jnp.square(values - stop(target)[None]).mean(0) / 2

    def actor_losses(
        self, params: dict[str, Params], key: PRNGKey, transition: Transition
    ) -> tuple[dict[str, Float[Array, "R"]], Metrics]:
        """Return the losses of actor and temperature in the states that steps began in, and metrics."""
        features, weight, log_temperature = transition.features, transition.weight, params["temperature"]["log"]
        action, log_prob = self._policy(params["actor"], features).sample_and_log_prob(key)
        worth = self.values(stop(params["critic"]), features, action).min(0)
        losses = {
            "actor": weight * (stop(jnp.exp(log_temperature)) * log_prob - worth),
            "temperature": -weight * log_temperature * stop(log_prob + self.target_entropy),
        }
        metrics = {
            "actor/entropy": -log_prob.mean(),
            "actor/temperature": jnp.exp(log_temperature),
            "actor/action_size": jnp.abs(action).mean(),
            "critic/value": worth.mean(),
        }
        return losses, metrics

    def loss(
        self, params: dict[str, Params], model: Params, slow: Params, key: PRNGKey, steps: Steps
    ) -> tuple[Scalar, Metrics]:
        """Return the behaviour's loss and metrics; its gradient reaches ``params`` alone.

        Args:
            params: ``{"actor", "critic", "temperature"}``.
            model: the world model's parameters.
            slow: the slow critics' parameters.
            key: for imagination and actions.
            steps: replayed steps ``[T, B]``; imagination starts from every state they led to.
        """
        dream_key, target_key, real_key, actor_key = jax.random.split(key, 4)
        imagined = self.imagined(model, stop(params["actor"]), dream_key, steps)
        losses, metrics = self.actor_losses(params, actor_key, imagined)
        target = self.target(params, slow, target_key, imagined, self.config.horizon)
        losses["critic"] = self.critic_loss(params["critic"], imagined, target)
        weights = {"actor": 1.0, "temperature": 1.0, "critic": 1 - self.config.real_share}
        if self.config.real_share > 0:
            real = self.replayed(steps)
            real_target = self.target(params, slow, real_key, real)
            losses["real_critic"] = self.critic_loss(params["critic"], real, real_target)
            weights["real_critic"] = self.config.real_share
        metrics |= {f"loss/{name}": value.mean() for name, value in losses.items()}
        metrics |= {"critic/target": target.mean(), "critic/weight": imagined.weight.mean()}
        return weigh(losses, weights), metrics

    def _dream(self, model: Params, actor: Params, key: PRNGKey, start: Latent) -> tuple[Dream, Prediction]:
        policy = lambda latent, key: self.act(actor, latent).sample(key)
        dream: Dream = self.model.imagine(stop(model), key, stop(start), policy, self.config.horizon)
        return dream, self.model.predict(stop(model), dream.latent)
