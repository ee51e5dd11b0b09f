"""An ensemble of probabilistic networks for vector observations (Chua et al. 2018, PETS; Janner et al. 2019, MBPO).

Symbols: x observation [D], a action [A], r reward, c whether the episode goes on, k one of K members.
    y = (x' - x, r)      y ~ Normal(m_k(x, a), diag s_k(x, a)^2)      c ~ Bernoulli(l_k(x, a)) or Bernoulli(l(x'))
The state is the observation itself, so nothing is remembered: what is not seen is not known. x and y are brought to
mean 0 and deviation 1 by running moments, so that joint angles that move by thousandths in a step and velocities that
jump by tens at a contact weigh alike and keep all digits; symlog would bend x' = x + v dt. Behaviours read symlog(x).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Bool, Float, Int

from mbrl.core import normalise, parallel
from mbrl.core.distributions import Bernoulli, Gaussian, SymlogVector, soft_clamp, symlog
from mbrl.core.errors import UserError, unknown
from mbrl.core.types import (
    Observation,
    Params,
    PRNGKey,
    Scalar,
    Sequence,
    Spec,
    TimeStep,
    action_dim,
    as_dict,
)
from mbrl.nets.blocks import BlockDense
from mbrl.nets.heads import refuse_images, vector_shapes
from mbrl.nets.precision import Precision, dtype_of
from mbrl.worldmodels.base import Dream, ModelOutput, Policy, Posterior, Prediction, into_box, roll, weigh

stop = jax.lax.stop_gradient
# Where the bounds of the log-variance begin, in units of the changes' own variance (the public code of PETS).
LOWEST, HIGHEST = -10.0, 0.5
# The logit of going on where nothing has been predicted, at FIRST: all but certain.
SURE = 10.0

DiscountOf: TypeAlias = Literal["step", "arrival"]


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """The world model."""

    members: int = 5
    """Networks K; MBPO draws from the best 5 of 7, here all that are trained are used."""
    layers: int = 4
    """Hidden layers of each."""
    units: int = 200
    """Width of the hidden layers."""
    beta: float = 0.5
    """Power β of an entry's variance that weighs its gradients: at 0.5 all entries pull alike; at 0, as in the papers,
    what is known to a hundredth of its deviation pulls a hundred times as hard as what is not known yet."""
    bounds_scale: float = 0.01
    """Weight that draws the learned bounds of the log-variance together."""
    reward_scale: float = 1.0
    """Weight of the reward's loss."""
    discount_scale: float = 1.0
    """Weight of the loss of whether the episode goes on."""
    discount_of: DiscountOf = "step"
    """What tells whether the episode goes on: state and action, or the state arrived in, read by one more network."""
    moments_rate: float = 1e-3
    """Least share of the newest batch in the running moments of observations and changes."""


# What each number is at least.
_LEAST = {"members": 1, "layers": 1, "units": 1, "bounds_scale": 0, "reward_scale": 0, "discount_scale": 0}


class Latent(NamedTuple):
    """The model's state, and what it expected on arriving there."""

    observation: Float[Array, "*N D"]  # x, all keys joined
    reward: Float[Array, "*N"]
    reward_std: Float[Array, "*N"]
    going: Float[Array, "*N"]  # logit of the episode going on


class Arrival(NamedTuple):
    """What K members expect of a step, y in units of its running deviation around its running mean."""

    mean: Float[Array, "K *N D+1"]
    std: Float[Array, "K *N D+1"]
    going: Float[Array, "K *N"] | None  # logit; None where the state arrived in tells it


class Members(nn.Module):
    """K networks of the same shape side by side: every layer is one batched matrix product."""

    members: int
    layers: int
    units: int
    outputs: int
    dtype: Any = jnp.float32  # of the numbers multiplied

    @nn.compact
    def __call__(self, x: Float[Array, "K *N I"]) -> Float[Array, "K *N O"]:
        """Map each member's own ``[*N, I]`` to ``[*N, outputs]``."""
        # No norm: one that divides by the size of a small state would leave its direction alone.
        for _ in range(self.layers):
            x = nn.silu(BlockDense(self.members * self.units, self.dtype)(x))
        return BlockDense(self.members * self.outputs, self.dtype)(x)


def check(config: EnsembleConfig) -> None:
    """Raise a UserError for sizes that cannot be built and weights that make no sense."""
    for name, least in _LEAST.items():
        if not getattr(config, name) >= least:
            raise UserError(f"worldmodel.{name} must be at least {least}; got {getattr(config, name)}")
    for name in ("moments_rate", "beta"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"worldmodel.{name} must lie in [0, 1]; got {getattr(config, name)}")
    if config.discount_of not in get_args(DiscountOf):
        raise unknown("worldmodel.discount_of", config.discount_of, get_args(DiscountOf))


class Ensemble:
    """A ``WorldModel``; holds the network definition, never parameters.

    The running moments are among the parameters, where no gradient reaches them: whoever trains the model calls
    ``measure`` beside each update.
    """

    def __init__(
        self, config: EnsembleConfig, observation_spec: Spec, action_spec: specs.Array, precision: Precision = "f32"
    ) -> None:
        """Describe the members.

        Args:
            config: sizes and weights.
            observation_spec: of one environment; vectors only.
            action_spec: of one environment.
            precision: of the numbers that the members multiply.

        Raises:
            UserError: for values outside their range, image observations, or a precision that the device lacks.
        """
        check(config)
        refuse_images(observation_spec)
        self.config = config
        self.shapes = vector_shapes(observation_spec)
        self.sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        self.width = sum(self.sizes.values())
        self.actions = action_dim(action_spec)
        # Mean and log-variance of x' - x and of r, and the logit of going on.
        outputs = 2 * (self.width + 1) + (config.discount_of == "step")
        self.net = Members(config.members, config.layers, config.units, outputs, dtype_of(precision))
        # One is enough: whether a state ends the episode is no matter for the members to be of several minds about.
        self.end_net = Members(1, config.layers, config.units, 1, dtype_of(precision))
        self.weights = {
            "observation": 1.0,
            "reward": config.reward_scale,
            "discount": config.discount_scale,
            "bounds": config.bounds_scale,
        }

    def init(self, key: PRNGKey) -> Params:
        """Draw the members, each from itself; the moments have seen nothing."""
        inputs = jnp.zeros((self.config.members, 1, self.width + self.actions))
        ones = jnp.ones(self.width + 1)
        end = {}
        if self.config.discount_of == "arrival":
            # By a key of its own: the members are the same with it and without.
            end = {"end": self.end_net.init(jax.random.fold_in(key, 1), inputs[:1, :, : self.width])["params"]}
        return end | {
            "members": self.net.init(key, inputs)["params"],
            "bounds": {"low": LOWEST * ones, "high": HIGHEST * ones},
            "seen": normalise.init_moments(self.width),
            "change": normalise.init_moments(self.width + 1),
        }

    def initial(self, batch_size: int) -> Latent:
        """Return zeros: the state before anything was seen."""
        zeros = jnp.zeros(batch_size)
        return Latent(jnp.zeros((batch_size, self.width)), zeros, jnp.ones(batch_size), zeros + SURE)

    def features(self, latent: Latent) -> Float[Array, "*N F"]:
        """Return symlog of the observation, and a 1.

        Networks that begin with a norm would otherwise see the direction of a state and not its size.
        """
        squashed = symlog(latent.observation)
        return jnp.concatenate([squashed, jnp.ones_like(squashed[..., :1])], -1)

    def step(
        self, params: Params, key: PRNGKey, latent: Latent, action: Float[Array, "B A"], timestep: TimeStep
    ) -> Latent:
        """Take in one time step (see ``WorldModel.step``): what is seen, and what all members expected to come."""
        del key
        arrival = self._arrive(params, *self._to_all(latent.observation, action))
        seen = self._vector(timestep.observation, timestep.reward.shape)
        return self._filtered(params, arrival, seen, timestep.first())

    def observe(self, params: Params, key: PRNGKey, latent: Latent, sequence: Sequence) -> Posterior:
        """Take in ``sequence [T + 1, B]`` from the latent after its first step; nothing in it is random."""
        del key
        after = jax.tree.map(lambda x: x[1:], sequence.timestep)
        seen = self._vector(after.observation, after.reward.shape)
        before = jnp.concatenate([latent.observation[None], seen[:-1]])
        arrival = self._arrive(params, *self._to_all(before, sequence.action[:-1]))
        return self._posterior(params, arrival, seen, after)

    def imagine(
        self, params: Params, key: PRNGKey, latent: Latent, policy: Policy | Array, horizon: int
    ) -> Dream:
        """Roll forward (see ``WorldModel.imagine``), each row by a member of its own in every step.

        Members are dealt to the rows in turn, in an order drawn anew for each step: a row's is uniform over all, as in
        Janner et al. 2019, algorithm 2, at a K-th of what it would cost to ask all of them and take one.
        """
        noise_key, order_key, policy_key = jax.random.split(key, 3)
        rows, members = latent.reward.shape[0], self.config.members
        noise = parallel.draw(jax.random.normal, noise_key, (horizon, rows, self.width), axis=1)
        orders = jnp.argsort(jax.random.uniform(order_key, (horizon, members)), axis=-1)
        # A device that has some of the rows goes on dealing where the one before it left off.
        count = lambda _, shape: jnp.arange(shape[0])
        begin = parallel.draw(count, order_key, (rows,), axis=0)[0]
        turns = orders[:, (begin + jnp.arange(members)) % members]

        def move(latent: Latent, action: Array, inputs: tuple[Array, Array]) -> Latent:
            turn, noise = inputs
            return self._moved(params, latent, self._dealt(params, latent.observation, action, turn), noise)

        return roll(move, latent, policy, policy_key, (turns, noise))

    def propagate(
        self, params: Params, key: PRNGKey, latent: Latent, action: Float[Array, "B A"], *, keep: bool
    ) -> Latent:
        """Move P particles ``[B, P]`` of each row by its one action (Chua et al. 2018, section 5.1).

        Every member moves P / K of them, a whole number: with ``keep`` always the same (TSinf: which member is right
        stays as it is), else whoever the key deals to it (TS1). All rows are dealt alike.
        """
        rows, count = latent.reward.shape
        order_key, noise_key = jax.random.split(key)
        order = jax.random.permutation(order_key, count)
        noise = parallel.draw(jax.random.normal, noise_key, (rows, count, self.width), axis=0)
        pick = lambda x, places: x if keep else x[:, places]

        def deal(x: Float[Array, "B P C"]) -> Float[Array, "K B G C"]:
            return jnp.moveaxis(pick(x, order).reshape((rows, self.config.members, -1, x.shape[-1])), 1, 0)

        def collect(x: Float[Array, "K B G *C"]) -> Float[Array, "B P *C"]:
            return pick(jnp.moveaxis(x, 0, 1).reshape((rows, count, *x.shape[3:])), jnp.argsort(order))

        actions = jnp.broadcast_to(action[:, None], (rows, count, action.shape[-1]))
        arrival = self._arrive(params, deal(latent.observation), deal(actions))
        return self._moved(params, latent, jax.tree.map(collect, arrival), noise)

    def predict(self, params: Params, latent: Latent) -> Prediction:
        """Return what the latents ``[*N]`` hold: the observation is certain, reward and discount were expected."""
        del params
        ends = list(itertools.accumulate(self.sizes.values()))
        squashed = jnp.split(symlog(latent.observation), ends[:-1], -1)
        return Prediction(
            reward=Gaussian(latent.reward, latent.reward_std),
            discount=Bernoulli(latent.going),
            observation={name: SymlogVector(part) for name, part in zip(self.sizes, squashed, strict=True)},
        )

    def loss(self, params: Params, key: PRNGKey, sequence: Sequence) -> tuple[Scalar, ModelOutput]:
        """Return the weighted loss on ``sequence [T + 1, B]``, the mean over the members.

        -log Normal(y; m, s) summed over entries (Chua et al. 2018, eq. 1), -log Bernoulli(c; l), and the distance of
        the bounds (their appendix A.1). From LAST to the FIRST after it there is no step, so nothing to learn.
        """
        del key
        after = jax.tree.map(lambda x: x[1:], sequence.timestep)
        observation = self._vector(sequence.timestep.observation, sequence.timestep.reward.shape)
        arrival = self._arrive(params, *self._to_all(observation[:-1], sequence.action[:-1]))
        target, mask = self._target(observation, after)
        target = normalise.whiten(params["change"], target)
        fit = -Gaussian(arrival.mean, arrival.std).log_prob(jnp.broadcast_to(target, arrival.mean.shape))
        # The likelihood's value with the gradient of Seitzer et al. 2022, eq. 5.
        fit = stop(fit) + stop(arrival.std) ** (2 * self.config.beta) * (fit - stop(fit))
        logits = self._going(params, observation[1:])[None] if arrival.going is None else arrival.going
        going = jnp.broadcast_to(after.discount, logits.shape)
        losses = {
            "observation": mask * fit[..., :-1].sum(-1).mean(0),
            "reward": mask * fit[..., -1].mean(0),
            "discount": mask * -Bernoulli(logits).log_prob(going).mean(0),
            "bounds": jnp.broadcast_to((params["bounds"]["high"] - params["bounds"]["low"]).sum(), mask.shape),
        }
        mean = lambda x: parallel.masked_mean(x, mask)
        metrics = {
            # All three in deviations of a step's change, over all entries of y.
            "model/error": jnp.sqrt(mean(jnp.square(arrival.mean.mean(0) - target).mean(-1))),
            "model/std": mean(arrival.std.mean((0, -1))),
            "model/disagreement": mean(arrival.mean.std(0).mean(-1)),
            "model/going": mean(jax.nn.sigmoid(logits).mean(0)),
        }
        posterior = self._posterior(params, arrival, observation[1:], after)
        return weigh(losses, self.weights), ModelOutput(posterior, losses, metrics)

    def measure(self, params: Params, sequence: Sequence) -> Params:
        """Return the parameters with the running moments of observations and changes one batch further."""
        after = jax.tree.map(lambda x: x[1:], sequence.timestep)
        observation = self._vector(sequence.timestep.observation, sequence.timestep.reward.shape)
        target, mask = self._target(observation, after)
        rate = self.config.moments_rate
        seen = normalise.update_moments(params["seen"], observation[:-1], mask, rate)
        return params | {"seen": seen, "change": normalise.update_moments(params["change"], target, mask, rate)}

    def pack(self, latent: Latent) -> Latent:
        """Return the latent: it is as small as it gets."""
        return latent

    def unpack(self, packed: Latent) -> Latent:
        """Return the latent."""
        return packed

    def _vector(self, observation: Observation, lead: tuple[int, ...]) -> Float[Array, "*N D"]:
        """Return all keys flattened and joined in sorted order."""
        parts = as_dict(observation)
        return jnp.concatenate([parts[name].reshape((*lead, -1)).astype(jnp.float32) for name in self.shapes], -1)

    def _target(self, observation: Float[Array, "S B D"], after: TimeStep) -> tuple[Array, Array]:
        """Return y ``[T, B, D + 1]`` between observations of S = T + 1 times, and the mask ``[T, B]`` of true steps."""
        change = observation[1:] - observation[:-1]
        return jnp.concatenate([change, after.reward[..., None]], -1), 1.0 - after.first()

    def _to_all(
        self, observation: Float[Array, "*N D"], action: Float[Array, "*N A"]
    ) -> tuple[Float[Array, "K *N D"], Float[Array, "K *N A"]]:
        """Return the same for every member."""
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.config.members, *x.shape)), (observation, action))

    def _arrive(
        self, params: Params, observation: Float[Array, "K *N D"], action: Float[Array, "K *N A"]
    ) -> Arrival:
        """Return what each member expects of its own observations and actions."""
        inputs = jnp.concatenate([normalise.whiten(params["seen"], observation), into_box(action)], -1)
        raw = jnp.asarray(self.net.apply({"params": params["members"]}, inputs))
        mean, log_variance, going = jnp.split(raw, [self.width + 1, 2 * self.width + 2], -1)
        std = jnp.exp(soft_clamp(log_variance, params["bounds"]["low"], params["bounds"]["high"]) / 2)
        return Arrival(mean, std, going[..., 0] if self.config.discount_of == "step" else None)

    def _going(self, params: Params, observation: Float[Array, "*N D"]) -> Float[Array, "*N"]:
        """Return the logit of going on after arriving at ``observation``."""
        seen = normalise.whiten(params["seen"], observation)
        return jnp.asarray(self.end_net.apply({"params": params["end"]}, seen[None]))[0, ..., 0]

    def _dealt(
        self,
        params: Params,
        observation: Float[Array, "B D"],
        action: Float[Array, "B A"],
        turn: Int[Array, "K"],
    ) -> Arrival:
        """Return what one member expects of each row: row i asks member ``turn[i % K]``."""
        rows, members = observation.shape[0], self.config.members
        spare = -rows % members

        def deal(x: Float[Array, "B C"]) -> Float[Array, "K R C"]:
            piles = jnp.pad(x, ((0, spare), (0, 0))).reshape((-1, members, x.shape[-1]))
            return jnp.swapaxes(piles, 0, 1)[jnp.argsort(turn)]

        def collect(x: Float[Array, "K R *C"]) -> Float[Array, "B *C"]:
            return jnp.swapaxes(x[turn], 0, 1).reshape((rows + spare, *x.shape[2:]))[:rows]

        return jax.tree.map(collect, self._arrive(params, deal(observation), deal(action)))

    def _changes(self, params: Params, arrival: Arrival) -> tuple[Array, Array]:
        """Return mean and deviation of y in its own units."""
        mean, std = normalise.whitening(params["change"], arrival.mean.ndim)
        return mean + std * arrival.mean, std * arrival.std

    def _moved(self, params: Params, latent: Latent, arrival: Arrival, noise: Float[Array, "*N D"]) -> Latent:
        """Return latents ``[*N]`` after a change drawn by standard noise from what one member of each expects."""
        change, std = self._changes(params, arrival)
        observation = latent.observation + change[..., :-1] + std[..., :-1] * noise
        going = self._going(params, observation) if arrival.going is None else arrival.going
        return Latent(observation, change[..., -1], std[..., -1], going)

    def _filtered(
        self, params: Params, arrival: Arrival, seen: Float[Array, "*N D"], first: Bool[Array, "*N"]
    ) -> Latent:
        """Return what is seen, and the mixture of what all members expected to come with it."""
        change, std = self._changes(params, arrival)
        reward = change[..., -1]
        spread = jnp.sqrt(jnp.square(std[..., -1]).mean(0) + reward.var(0))
        going = self._going(params, seen) if arrival.going is None else arrival.going.mean(0)
        nothing = lambda x, value: jnp.where(first, value, x)
        return Latent(seen, nothing(reward.mean(0), 0.0), nothing(spread, 1.0), nothing(going, SURE))

    def _posterior(
        self, params: Params, arrival: Arrival, seen: Float[Array, "T B D"], after: TimeStep
    ) -> Posterior:
        latent = self._filtered(params, arrival, seen, after.first())
        return Posterior(latent, jnp.zeros((*after.reward.shape, 0)))  # of no distribution: nothing is drawn
