"""The value-equivalent latent model of MuZero, with what EfficientZero adds to it, for vectors and images.

Symbols (Schrittwieser et al. 2020; Ye et al. 2021): o observation, a action, s latent state [D], r reward, c whether
the episode goes on, U unroll steps, k = 0..U one of the V = U + 1 states.
    representation  s^0 = h(o_t)            dynamics  s^k, r^k, c^k = g(s^{k-1}, a_{t+k-1})
Nothing remembers real observations: every one is represented by itself. The model is right where rewards, discounts,
values and policies are, not where observations are. States are brought to [0, 1] by their least and greatest entry
(Schrittwieser et al. 2020, appendix G): bounded however far a search unrolls them, and of the size of an action beside
them. Rewards are two-hot over symexp-spaced bins, as everywhere here, in place of MuZero's square root.

With the reward prefix (Ye et al. 2021, section 4.2) a recurrent cell reads the unroll and tells the sum of the rewards
so far; a reward is the difference of two of them. The cell forgets after U steps, the furthest that it learns to sum.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Float

from mbrl.core import parallel
from mbrl.core.distributions import Bernoulli, Gaussian, TwoHot
from mbrl.core.errors import UserError
from mbrl.core.types import Metrics, Observation, Params, PRNGKey, Scalar, Sequence, Spec, TimeStep, action_dim
from mbrl.nets.blocks import MLP, fan_in_init, gru_update
from mbrl.nets.heads import Head
from mbrl.nets.images import ImageConfig
from mbrl.nets.precision import Precision, dtype_of, multiply_in
from mbrl.worldmodels.base import Dream, ModelOutput, Policy, Posterior, Prediction, into_box, prepend, roll, weigh
from mbrl.worldmodels.senses import Senses, SensesConfig

# The logit of going on where nothing has been predicted: all but certain.
SURE = 10.0

stop = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class MuZeroModelConfig:
    """The world model."""

    state: int = 64
    """Length D of the latent state."""
    units: int = 128
    """Width of every hidden layer."""
    encoder_layers: int = 2
    """Layers of the vectors' encoder; one more linear map makes the state of it."""
    dynamics_layers: int = 2
    """Hidden layers of the dynamics, which say how the state changes."""
    head_layers: int = 1
    """Hidden layers of the reward and discount heads."""
    decoder_layers: int = 1
    """Layers of the decoder, which learns beside the model, for reports: without a say in it, but for its share of the
    norm that `optim.clip` bounds."""
    images: ImageConfig = ImageConfig(depth=8)
    """Encoders and decoders of images."""
    bins: int = 127
    """Bins of the two-hot reward head (odd)."""
    unroll: int = 5
    """U, steps that the dynamics are unrolled for from each replayed state."""
    prefix: bool = False
    """Tell rewards as differences of their sum over the unroll, which a recurrent cell tells."""
    memory: int = 64
    """Width of that cell."""
    reward_scale: float = 1.0
    """Weight of the reward loss."""
    discount_scale: float = 1.0
    """Weight of the loss of whether the episode goes on."""
    consistency_scale: float = 0.0
    """Weight of the loss that draws unrolled states towards represented ones; 2 in EfficientZero, 0 for none."""
    consistency_size: int = 64
    """Length of the vectors that it compares."""


# What each number is at least.
_LEAST = dict.fromkeys(("state", "units", "dynamics_layers", "encoder_layers", "unroll", "memory"), 1) | dict.fromkeys(
    ("head_layers", "decoder_layers", "reward_scale", "discount_scale", "consistency_scale"), 0
)


class Latent(NamedTuple):
    """The model's state, and what it expected on arriving there."""

    state: Float[Array, "*N D"]  # s
    reward: Float[Array, "*N"]
    going: Float[Array, "*N"]  # logit
    memory: Float[Array, "*N M"] | None  # of the reward prefix's cell, where there is one
    prefix: Float[Array, "*N"]  # expected sum of rewards since the cell forgot
    steps: Float[Array, "*N"]  # since it did


class Unrolled(NamedTuple):
    """The dynamics unrolled along replayed actions from S = T + 1 - U starts; entry k is k steps after the start."""

    latent: Latent  # [U + 1, S, B, ...]
    reward: Float[Array, "U S B K"]  # logits, of the prefix if there is one
    mask: Float[Array, "V S B"]  # 1 where the step still belongs to the start's episode
    seen: Float[Array, "T B D"]  # what each time step is represented by


class PrefixCell(nn.Module):
    """A gated recurrent cell over the hidden layer of the dynamics."""

    size: int
    dtype: Any = jnp.float32  # of the numbers multiplied

    @nn.compact
    def __call__(self, memory: Float[Array, "*N M"], x: Float[Array, "*N I"]) -> Float[Array, "*N M"]:
        """Return the next memory."""
        joined = jnp.concatenate([memory, x], -1)
        gates = nn.Dense(3 * self.size, kernel_init=fan_in_init(), dot_general=multiply_in(self.dtype))(joined)
        reset, candidate, update = jnp.split(gates, 3, -1)
        return gru_update(reset, candidate, update, memory)


def check(config: MuZeroModelConfig) -> None:
    """Raise a UserError for sizes that cannot be built and weights that make no sense."""
    for name, least in (_LEAST | {"state": 2, "consistency_size": 1}).items():
        if not getattr(config, name) >= least:
            raise UserError(f"worldmodel.{name} must be at least {least}; got {getattr(config, name)}")
    if config.bins < 3 or config.bins % 2 == 0:
        raise UserError(f"worldmodel.bins must be odd and at least 3; got {config.bins}")


def windows(x: Array, unroll: int) -> Array:
    """Return ``[U + 1, S, ...]`` of ``x [T + 1, ...]``: entry (k, s) is ``x[s + k]``, S = T + 1 - U."""
    starts = x.shape[0] - unroll
    return jnp.stack([x[k : k + starts] for k in range(unroll + 1)])


def over_unroll(loss: Float[Array, "V S B"]) -> Float[Array, "S B"]:
    """Return the root's loss plus the mean of the U unrolled ones (Schrittwieser et al. 2020, appendix G)."""
    return loss[0] + loss[1:].mean(0)


def half_gradient(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Return x with half its gradient, so that unrolled states do not add theirs up (same appendix)."""
    return 0.5 * x + stop(0.5 * x)


def to_unit(x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """Return vectors whose least entry is 0 and whose greatest is 1."""
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    return (x - low) / (high - low + 1e-5)


def same_episode(timestep: TimeStep, unroll: int) -> Float[Array, "V S B"]:
    """Return 1 where no episode has begun since the start; from LAST to the FIRST after it there is no step."""
    begun = windows(timestep.first().astype(jnp.float32), unroll).at[0].set(0.0)
    return jnp.cumprod(1.0 - begun, 0)


class MuZeroModel:
    """A ``WorldModel``; holds the network definitions, never parameters."""

    def __init__(
        self,
        config: MuZeroModelConfig,
        observation_spec: Spec,
        action_spec: specs.Array,
        precision: Precision = "f32",
    ) -> None:
        """Build the networks.

        Args:
            config: sizes and weights.
            observation_spec: of one environment; bytes [H, W, C] are images, all else are vectors.
            action_spec: of one environment.
            precision: of the numbers that the networks multiply.

        Raises:
            UserError: for values outside their range, images that cannot be halved, or a precision that the device
                lacks.
        """
        check(config)
        self.config, self.actions = config, action_dim(action_spec)
        units, dtype = config.units, dtype_of(precision)
        layers = config.encoder_layers, config.decoder_layers
        self.senses = Senses(observation_spec, SensesConfig(config.images, layers, units, 1, True), dtype)
        self.nets: dict[str, nn.Module] = {
            **self.senses.encoders,
            "representation": Head(0, units, config.state, dtype=dtype),
            "dynamics": MLP(config.dynamics_layers, units, dtype),
            "change": Head(0, units, config.state, dtype=dtype),
            "reward": Head(config.head_layers, units, config.bins, outscale=0.0, dtype=dtype),
            "discount": Head(config.head_layers, units, 1, dtype=dtype),
            **self.senses.decoders,
        }
        self.weights = {"reward": config.reward_scale, "discount": config.discount_scale, "decoder": 1.0}
        if config.prefix:
            self.nets["prefix"] = PrefixCell(config.memory, dtype)
        if config.consistency_scale > 0:
            self.weights["consistency"] = config.consistency_scale
            self.nets |= {name: Head(1, units, config.consistency_size, dtype=dtype)
                          for name in ("projector", "predictor")}

    def init(self, key: PRNGKey) -> Params:
        """Draw parameters, one entry per network."""
        state, hidden = jnp.zeros((1, self.config.state)), jnp.zeros((1, self.config.units))
        memory = jnp.zeros((1, self.config.memory))
        inputs = self.senses.inputs(state, state) | {
            "representation": (jnp.zeros((1, self.senses.width)),),
            "dynamics": (jnp.zeros((1, self.config.state + self.actions)),),
            "change": (hidden,),
            "prefix": (memory, hidden),
            "reward": (memory if self.config.prefix else hidden,),
            "discount": (hidden,),
            "projector": (state,),
            "predictor": (jnp.zeros((1, self.config.consistency_size)),),
        }
        keys = jax.random.split(key, len(self.nets))
        named = zip(keys, self.nets.items(), strict=True)
        return {name: net.init(part, *inputs[name])["params"] for part, (name, net) in named}

    def initial(self, batch_size: int) -> Latent:
        """Return zeros: the state before anything was seen."""
        return self._root(jnp.zeros((batch_size, self.config.state)))

    def features(self, latent: Latent) -> Float[Array, "*N D"]:
        """Return the state."""
        return latent.state

    def represent(self, params: Params, observation: Observation, lead: tuple[int, ...]) -> Latent:
        """Return what observations ``[*lead, ...]`` are represented by, as roots of an unroll or a search."""
        return self._root(self._see(params, observation, lead))

    def step(
        self, params: Params, key: PRNGKey, latent: Latent, action: Float[Array, "B A"], timestep: TimeStep
    ) -> Latent:
        """Take in one time step (see ``WorldModel.step``): what is seen, and what was expected to come with it."""
        del key
        expected, _ = self._move(params, latent, action)
        return self._arrived(params, expected, timestep)

    def observe(self, params: Params, key: PRNGKey, latent: Latent, sequence: Sequence) -> Posterior:
        """Take in ``sequence [T + 1, B]`` from the latent after its first step; nothing in it is random."""
        del key
        after = jax.tree.map(lambda x: x[1:], sequence.timestep)
        seen = self.represent(params, after.observation, after.reward.shape)
        before = jax.tree.map(lambda x: x[:-1], prepend(latent, seen))
        expected, _ = self._move(params, before, sequence.action[:-1])
        # Of no distribution: nothing is drawn.
        return Posterior(self._filtered(seen, expected, after), jnp.zeros((*after.reward.shape, 0)))

    def imagine(
        self, params: Params, key: PRNGKey, latent: Latent, policy: Policy | Array, horizon: int
    ) -> Dream:
        """Roll forward (see ``WorldModel.imagine``); nothing in it is random but the policy."""
        move = lambda latent, action, _: self._move(params, latent, action)[0]
        return roll(move, latent, policy, key, jnp.zeros((horizon, 0)))

    def predict(self, params: Params, latent: Latent) -> Prediction:
        """Return what the latents ``[*N]`` hold, as expected on the way there; rewards with a deviation of 1."""
        return Prediction(
            reward=Gaussian(latent.reward, jnp.ones_like(latent.reward)),
            discount=Bernoulli(latent.going),
            observation=self.senses.expect(partial(self._apply, params), latent.state, latent.state),
        )

    def unroll(self, params: Params, sequence: Sequence) -> Unrolled:
        """Unroll the dynamics for U steps from each of the first T + 1 - U steps of ``sequence [T + 1, B]``.

        Raises:
            UserError: the sequence is shorter than that, when first traced.
        """
        steps, length = self.config.unroll, sequence.action.shape[0]
        if length <= steps:
            raise UserError(
                f"replay.batch_length must be at least worldmodel.unroll ({steps}); got {length - 1}"
            )
        seen = self._see(params, sequence.timestep.observation, sequence.timestep.reward.shape)
        root = self._root(seen[: length - steps])

        def body(latent: Latent, action: Float[Array, "S B A"]) -> tuple[Latent, tuple[Latent, Array]]:
            halved = latent._replace(state=half_gradient(latent.state))
            after, logits = self._move(params, halved, action)
            return after, (after, logits)

        _, (latents, logits) = jax.lax.scan(body, root, windows(sequence.action, steps)[:-1])
        return Unrolled(prepend(root, latents), logits, same_episode(sequence.timestep, steps), seen)

    def losses(
        self, params: Params, unrolled: Unrolled, sequence: Sequence
    ) -> tuple[dict[str, Float[Array, "S B"]], Metrics]:
        """Return the model's own losses of each start, unweighted, and metrics; nothing crosses an episode's border."""
        steps, mask = self.config.unroll, unrolled.mask
        timestep = jax.tree.map(lambda x: windows(x, steps), sequence.timestep)
        after = jax.tree.map(lambda x: x[1:], timestep)
        reached, reward = mask[1:], mask[1:] * after.reward
        told = jnp.cumsum(reward, 0) if self.config.prefix else reward
        shown = stop(unrolled.latent.state)
        expected = self.senses.expect(partial(self._apply, params), shown, shown)
        losses = {
            "reward": (reached * -TwoHot(unrolled.reward).log_prob(told)).mean(0),
            "discount": (reached * -Bernoulli(unrolled.latent.going[1:]).log_prob(after.discount)).mean(0),
            "decoder": (mask * self.senses.misfit(expected, timestep.observation, mask.shape)).mean(0),
        }
        if self.config.consistency_scale > 0:
            target = windows(stop(unrolled.seen), steps)[1:]
            losses["consistency"] = (reached * self._inconsistency(params, unrolled.latent.state[1:], target)).mean(0)
        flat = lambda x: x.reshape((-1, x.shape[-1]))
        miss = jnp.abs(unrolled.latent.reward[1:] - reward)
        metrics = {
            "model/reward_error": parallel.masked_mean(flat(miss), flat(reached)),
            "model/going": parallel.masked_mean(flat(jax.nn.sigmoid(unrolled.latent.going[1:])), flat(reached)),
        }
        return losses, metrics

    def loss(self, params: Params, key: PRNGKey, sequence: Sequence) -> tuple[Scalar, ModelOutput]:
        """Return the model's own weighted loss on ``sequence [T + 1, B]``, without policy and value.

        Losses are ``[S, B]``, one for each start of an unroll (see ``unroll``). The key is for the images' random
        shift.
        """
        if self.senses.shift:
            sequence = self.senses.shifted(key, sequence)
        unrolled = self.unroll(params, sequence)
        losses, metrics = self.losses(params, unrolled, sequence)
        latent = self._root(unrolled.seen[1:])
        posterior = Posterior(latent, jnp.zeros((*latent.reward.shape, 0)))
        return weigh(losses, self.weights), ModelOutput(posterior, losses, metrics)

    def pack(self, latent: Latent) -> Latent:
        """Return the latent: it is as small as it gets."""
        return latent

    def unpack(self, packed: Latent) -> Latent:
        """Return the latent."""
        return packed

    def _apply(self, params: Params, name: str, *inputs: Any) -> Any:
        return self.nets[name].apply({"params": params[name]}, *inputs)

    def _see(self, params: Params, observation: Observation, lead: tuple[int, ...]) -> Float[Array, "*N D"]:
        token = self.senses.token(partial(self._apply, params), observation, lead)
        return to_unit(self._apply(params, "representation", token))

    def _root(self, state: Float[Array, "*N D"]) -> Latent:
        """Return states that nothing was expected of, with an empty prefix."""
        zeros = jnp.zeros(state.shape[:-1])
        memory = jnp.zeros((*zeros.shape, self.config.memory)) if self.config.prefix else None
        return Latent(state, zeros, zeros + SURE, memory, zeros, zeros)

    def _move(
        self, params: Params, latent: Latent, action: Float[Array, "*N A"]
    ) -> tuple[Latent, Float[Array, "*N K"]]:
        """Return the latent that an action leads to, and the logits of what the reward head says."""
        hidden = self._apply(params, "dynamics", jnp.concatenate([latent.state, into_box(action)], -1))
        state = to_unit(latent.state + self._apply(params, "change", hidden))
        going = self._apply(params, "discount", hidden)[..., 0]
        if latent.memory is None:
            logits = self._apply(params, "reward", hidden)
            return latent._replace(state=state, reward=TwoHot(logits).mean(), going=going), logits
        keeps = (latent.steps < self.config.unroll).astype(jnp.float32)
        memory = self._apply(params, "prefix", keeps[..., None] * latent.memory, hidden)
        logits = self._apply(params, "reward", memory)
        told = TwoHot(logits).mean()
        return Latent(state, told - keeps * latent.prefix, going, memory, told, keeps * latent.steps + 1), logits

    def _arrived(self, params: Params, expected: Latent, timestep: TimeStep) -> Latent:
        seen = self.represent(params, timestep.observation, timestep.reward.shape)
        return self._filtered(seen, expected, timestep)

    def _filtered(self, seen: Latent, expected: Latent, timestep: TimeStep) -> Latent:
        """Return what is seen, with what was expected to come with it; at FIRST nothing was."""
        first = timestep.first()
        return seen._replace(
            reward=jnp.where(first, 0.0, expected.reward), going=jnp.where(first, SURE, expected.going)
        )

    def _inconsistency(
        self, params: Params, state: Float[Array, "*N D"], target: Float[Array, "*N D"]
    ) -> Float[Array, "*N"]:
        """Return minus the cosine between a state, projected and predicted from, and its target, projected.

        (Ye et al. 2021, section 4.1; Chen and He 2021, SimSiam.)
        """
        online = self._apply(params, "predictor", self._apply(params, "projector", state))
        other = stop(self._apply(params, "projector", target))
        # Under the root, not behind it: the gradient at zero is then finite, too.
        unit = lambda x: x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
        return -(unit(online) * unit(other)).sum(-1)
