"""The recurrent state-space model of DreamerV3, for vectors and images.

Symbols (Hafner et al. 2023, eq. 3-6): h = deter, z = stoch, x = observation, a = action, r = reward, c = discount.
    sequence model  h_t = f(h_{t-1}, z_{t-1}, a_{t-1})      prior      z_t ~ p(z_t | h_t)
    posterior       z_t ~ q(z_t | h_t, x_t)                 heads      r_t, c_t, x_t from (h_t, z_t)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Bool, Float

from mbrl.core.distributions import Bernoulli, TwoHot
from mbrl.core.errors import UserError, unknown
from mbrl.core.types import Observation, Params, PRNGKey, Scalar, Sequence, Spec, TimeStep, action_dim
from mbrl.nets.blocks import BlockGRU
from mbrl.nets.heads import Head
from mbrl.nets.images import ImageConfig
from mbrl.nets.precision import Precision, dtype_of
from mbrl.worldmodels import alignment
from mbrl.worldmodels.alignment import AlignmentConfig, Objective, misalignment
from mbrl.worldmodels.base import Dream, ModelOutput, Policy, Posterior, Prediction, into_box, roll, weigh
from mbrl.worldmodels.senses import Senses, SensesConfig
from mbrl.worldmodels.stochastic import Categorical, Gaussian, Stochastic


@dataclasses.dataclass(frozen=True)
class RSSMConfig:
    """The world model. Fields left at `None` follow the agent's size."""

    deter: int | None = None
    """Width of the deterministic state h."""
    hidden: int | None = None
    """Width of the layers inside the dynamics."""
    units: int | None = None
    """Width of encoder, decoder and heads."""
    stoch: int = 32
    """How many stochastic variables z has."""
    classes: int | None = None
    """Classes of each categorical variable."""
    latent: Literal["categorical", "gaussian"] = "categorical"
    """Family of the stochastic variables."""
    blocks: int = 8
    """Diagonal blocks of the recurrent weights; must divide deter."""
    unimix: float = 0.01
    """Share of uniform mixed into every categorical, so that no KL is infinite."""
    encoder_layers: int = 3
    """Layers of the vectors' encoder."""
    decoder_layers: int = 3
    """Layers of the vectors' decoder."""
    images: ImageConfig = ImageConfig()
    """Encoders and decoders of images."""
    objective: Objective = "reconstruction"
    """What teaches the encoder: drawing what was seen, or telling it from other steps (`infonce`, `barlow`); then
    decoders learn beside the model, without a say in it but for their share of the norm that `optim.clip` bounds."""
    alignment: AlignmentConfig = AlignmentConfig()
    """The losses without reconstruction."""
    prior_layers: int = 2
    """Layers between h and the prior."""
    posterior_layers: int = 1
    """Layers between (h, token) and the posterior."""
    head_layers: int = 1
    """Layers of the reward and discount heads."""
    bins: int = 255
    """Bins of the two-hot reward head (odd)."""
    free_nats: float = 1.0
    """KL below which neither side of the balance is trained (free bits, in nats)."""
    dynamics_scale: float = 1.0
    """Weight of the KL that pulls the prior towards the posterior."""
    representation_scale: float = 0.1
    """Weight of the KL that pulls the posterior towards the prior."""
    reconstruction_scale: float = 1.0
    """Weight of the observation loss."""
    reward_scale: float = 1.0
    """Weight of the reward loss."""
    discount_scale: float = 1.0
    """Weight of the discount loss."""
    remat: bool = True
    """Recompute recurrent steps, and on a CPU images, in the backward pass instead of storing what was computed."""


# What each number is at least.
_LEAST = dict.fromkeys(("deter", "hidden", "units", "stoch", "blocks", "encoder_layers"), 1) | dict.fromkeys(
    (
        *("decoder_layers", "prior_layers", "posterior_layers", "head_layers", "free_nats", "dynamics_scale"),
        *("representation_scale", "reconstruction_scale", "reward_scale", "discount_scale"),
    ),
    0,
)


class Latent(NamedTuple):
    """The model's state."""

    deter: Float[Array, "*N D"]
    stoch: Float[Array, "*N Z"]  # flattened one-hots, or a normal sample


class Packed(NamedTuple):
    """A latent as replay stores it."""

    deter: Float[Array, "*N D"]
    stoch: Array  # [*N, S] class indices (uint8), or the normal sample


def check(config: RSSMConfig) -> None:
    """Raise a UserError for sizes that cannot be built and weights that make no sense."""
    if None in (config.deter, config.classes, config.hidden, config.units):
        raise UserError("worldmodel.deter, hidden, units and classes must be numbers here; the agent's size fills them")
    for name, least in _LEAST.items():
        if not getattr(config, name) >= least:
            raise UserError(f"worldmodel.{name} must be at least {least}; got {getattr(config, name)}")
    deter, classes = config.deter or 0, config.classes or 0
    if deter % config.blocks:
        nearest = max(1, round(deter / config.blocks)) * config.blocks
        raise UserError(
            f"worldmodel.deter must be a multiple of worldmodel.blocks ({config.blocks}); got {deter}, "
            f"the nearest is {nearest}"
        )
    if config.bins < 3 or config.bins % 2 == 0:
        raise UserError(f"worldmodel.bins must be odd and at least 3; got {config.bins}")
    if not 0 <= config.unimix < 1:
        raise UserError(f"worldmodel.unimix must lie in [0, 1); got {config.unimix}")
    alignment.check(config.objective, config.alignment)
    if config.latent == "categorical" and not 2 <= classes <= 256:
        raise UserError(f"worldmodel.classes must lie between 2 and 256; got {classes}")


def make_stochastic(config: RSSMConfig) -> Stochastic:
    """Return the stochastic part of the state; raises UserError for a family that there is not."""
    families: dict[str, Stochastic] = {
        "categorical": Categorical(config.stoch, config.classes or 0, config.unimix),
        "gaussian": Gaussian(config.stoch),
    }
    if config.latent not in families:
        raise unknown("worldmodel.latent", config.latent, families)
    return families[config.latent]


class RSSM:
    """A ``WorldModel``; holds the network definitions, never parameters."""

    def __init__(
        self, config: RSSMConfig, observation_spec: Spec, action_spec: specs.Array, precision: Precision = "f32"
    ) -> None:
        """Build the networks.

        Args:
            config: with every size filled in.
            observation_spec: of one environment; bytes [H, W, C] are images, all else are vectors.
            action_spec: of one environment.
            precision: of the numbers that the networks multiply.

        Raises:
            UserError: for sizes that do not divide, images that cannot be halved, or a precision that the device lacks.
        """
        check(config)
        deter, units = config.deter or 0, config.units or 0
        self.config = config
        self.actions = action_dim(action_spec)
        self.stochastic = make_stochastic(config)
        self.deter = deter
        dtype, hidden = dtype_of(precision), config.hidden or 0
        layers = config.encoder_layers, config.decoder_layers
        senses = SensesConfig(config.images, layers, units, config.blocks, config.remat)
        self.senses = Senses(observation_spec, senses, dtype)
        aligned = config.alignment.size
        self.nets: dict[str, nn.Module] = {
            **self.senses.encoders,
            "dynamics": BlockGRU(hidden, config.blocks, dtype),
            "prior": Head(config.prior_layers, hidden, self.stochastic.outputs, dtype=dtype),
            "posterior": Head(config.posterior_layers, hidden, self.stochastic.outputs, dtype=dtype),
            **self.senses.decoders,
            "reward": Head(config.head_layers, units, config.bins, outscale=0.0, dtype=dtype),
            "discount": Head(config.head_layers, units, 1, dtype=dtype),
        }
        if config.objective != "reconstruction":
            self.nets |= {name: Head(1, units, aligned, dtype=dtype) for name in ("predictor", "projector")}
        self.weights = {
            "reconstruction": config.reconstruction_scale,
            "reward": config.reward_scale,
            "discount": config.discount_scale,
            "dynamics": config.dynamics_scale,
            "representation": config.representation_scale,
        }
        if config.objective != "reconstruction":
            self.weights["alignment"] = config.alignment.scale

    def init(self, key: PRNGKey) -> Params:
        """Draw parameters, one entry per network."""
        latent = self.initial(1)
        features = self.features(latent)
        inputs = self.senses.inputs(latent.deter, latent.stoch)
        token = jnp.zeros((1, self.senses.width))
        inputs |= {
            "dynamics": (latent.deter, latent.stoch, jnp.zeros((1, self.actions))),
            "prior": (latent.deter,),
            "posterior": (jnp.concatenate([latent.deter, token], -1),),
            "reward": (features,),
            "discount": (features,),
            "predictor": (features,),
            "projector": (token,),
        }
        keys = jax.random.split(key, len(self.nets))
        named = zip(keys, self.nets.items(), strict=True)
        return {name: net.init(part, *inputs[name])["params"] for part, (name, net) in named}

    def initial(self, batch_size: int) -> Latent:
        """Return zeros: the state before anything was seen."""
        return Latent(jnp.zeros((batch_size, self.deter)), jnp.zeros((batch_size, self.stochastic.size)))

    def features(self, latent: Latent) -> Float[Array, "*N F"]:
        """Return h and z as one vector."""
        return jnp.concatenate([latent.deter, latent.stoch], -1)

    def step(
        self, params: Params, key: PRNGKey, latent: Latent, action: Float[Array, "B A"], timestep: TimeStep
    ) -> Latent:
        """Filter one time step (see ``WorldModel.step``)."""
        token = self._encode(params, timestep.observation, timestep.reward.shape)
        noise = self.stochastic.noise(key, timestep.reward.shape)
        return self._filter(params, latent, action, token, timestep.first(), noise)[0]

    def observe(self, params: Params, key: PRNGKey, latent: Latent, sequence: Sequence) -> Posterior:
        """Filter ``sequence [T + 1, B]`` from the latent after its first step."""
        return self._observe(params, key, latent, sequence)[0]

    def _observe(
        self, params: Params, key: PRNGKey, latent: Latent, sequence: Sequence
    ) -> tuple[Posterior, Float[Array, "T B U"]]:
        """Filter a sequence; return what was seen as tokens, too."""
        timestep = jax.tree.map(lambda x: x[1:], sequence.timestep)
        lead = timestep.reward.shape
        token = self._encode(params, timestep.observation, lead)
        noise = self.stochastic.noise(key, lead)

        def body(latent: Latent, inputs: tuple) -> tuple[Latent, tuple[Latent, Array]]:
            latent, statistics = self._filter(params, latent, *inputs)
            return latent, (latent, statistics)

        inputs = (sequence.action[:-1], token, timestep.first(), noise)
        return Posterior(*jax.lax.scan(self._recompute(body), latent, inputs)[1]), token

    def imagine(
        self, params: Params, key: PRNGKey, latent: Latent, policy: Policy | Array, horizon: int
    ) -> Dream:
        """Roll the prior forward (see ``WorldModel.imagine``)."""
        noise_key, policy_key = jax.random.split(key)
        noise = self.stochastic.noise(noise_key, (horizon, *latent.deter.shape[:-1]))

        def move(latent: Latent, action: Array, noise: Array) -> Latent:
            deter = self._advance(params, latent, action)
            return Latent(deter, self.stochastic.sample(self._prior(params, deter), noise))

        return roll(move, latent, policy, policy_key, noise, self._recompute)

    def predict(self, params: Params, latent: Latent) -> Prediction:
        """Return the heads' distributions in the latents ``[*N]``."""
        return self._predict(params, latent, latent)

    def _predict(self, params: Params, latent: Latent, shown: Latent) -> Prediction:
        """Return the heads' distributions; decoders see ``shown``."""
        features = self.features(latent)
        return Prediction(
            reward=TwoHot(self._apply(params, "reward", features)),
            discount=Bernoulli(logits=self._apply(params, "discount", features)[..., 0]),
            observation=self.senses.expect(partial(self._apply, params), *shown),
        )

    def loss(
        self, params: Params, key: PRNGKey, sequence: Sequence, start: Latent | None = None
    ) -> tuple[Scalar, ModelOutput]:
        """Return the weighted loss on ``sequence [T + 1, B]`` (Hafner et al. 2023, eq. 4-6).

        The first step is context: the latent after it, ``start [B]`` or by default the stored one, starts the filter
        and it is not trained on.
        """
        if self.senses.shift:
            key, shift_key = jax.random.split(key)
            sequence = self.senses.shifted(shift_key, sequence)
        if start is None:
            start = self.unpack(jax.tree.map(lambda x: x[0], sequence.context))
        posterior, token = self._observe(params, key, start, sequence)
        prior = self._prior(params, posterior.latent.deter)
        generative = self.config.objective == "reconstruction"
        shown = posterior.latent if generative else jax.lax.stop_gradient(posterior.latent)
        prediction = self._predict(params, posterior.latent, shown)
        target = jax.tree.map(lambda x: x[1:], sequence.timestep)
        dynamics, representation, raw_kl = self._balanced_kl(posterior.statistics, prior)
        losses = {
            "reconstruction": self.senses.misfit(prediction.observation, target.observation, target.reward.shape),
            "reward": -prediction.reward.log_prob(target.reward),
            "discount": -prediction.discount.log_prob(target.discount),
            "dynamics": dynamics,
            "representation": representation,
        }
        if not generative:
            losses["alignment"] = self._misalignment(params, posterior.latent, token)
        metrics = {
            "model/kl": raw_kl.mean(),
            "model/prior_entropy": self.stochastic.entropy(prior).mean(),
            "model/posterior_entropy": self.stochastic.entropy(posterior.statistics).mean(),
        }
        return weigh(losses, self.weights), ModelOutput(posterior, losses, metrics)

    def pack(self, latent: Latent) -> Packed:
        """Return the latent with categorical samples as bytes."""
        return Packed(latent.deter, self.stochastic.pack(latent.stoch))

    def unpack(self, packed: Packed) -> Latent:
        """Undo ``pack``."""
        return Latent(packed.deter, self.stochastic.unpack(packed.stoch))

    def _recompute(self, body: Callable) -> Callable:
        """Let a scan's backward pass recompute its steps instead of storing every intermediate of every step.

        Stacking them costs more time than the small matrices take: half of imagination's backward pass on a CPU.
        """
        return jax.checkpoint(body, prevent_cse=False) if self.config.remat else body

    def _apply(self, params: Params, name: str, *inputs: Any) -> Any:
        return self.nets[name].apply({"params": params[name]}, *inputs)

    def _encode(self, params: Params, observation: Observation, lead: tuple[int, ...]) -> Float[Array, "*N U"]:
        return self.senses.token(partial(self._apply, params), observation, lead)

    def _misalignment(self, params: Params, latent: Latent, token: Float[Array, "T B U"]) -> Float[Array, "T B"]:
        predicted = self._apply(params, "predictor", self.features(latent))
        projected = self._apply(params, "projector", token)
        return misalignment(self.config.objective, self.config.alignment, predicted, projected)

    def _advance(self, params: Params, latent: Latent, action: Float[Array, "*N A"]) -> Float[Array, "*N D"]:
        return self._apply(params, "dynamics", latent.deter, latent.stoch, into_box(action))

    def _prior(self, params: Params, deter: Float[Array, "*N D"]) -> Array:
        return self.stochastic.statistics(self._apply(params, "prior", deter))

    def _filter(
        self,
        params: Params,
        latent: Latent,
        action: Float[Array, "B A"],
        token: Float[Array, "B U"],
        first: Bool[Array, "B"],
        noise: Array,
    ) -> tuple[Latent, Array]:
        """Return the posterior latent and its statistics; FIRST forgets latent and action."""
        forget = lambda x: jnp.where(first[:, None], 0.0, x)
        deter = self._advance(params, jax.tree.map(forget, latent), forget(action))
        raw = self._apply(params, "posterior", jnp.concatenate([deter, token], -1))
        statistics = self.stochastic.statistics(raw)
        return Latent(deter, self.stochastic.sample(statistics, noise)), statistics

    def _balanced_kl(self, posterior: Array, prior: Array) -> tuple[Array, Array, Array]:
        """Return dynamics KL, representation KL (both free below ``free_nats``) and the raw KL, ``[T, B]``."""
        stop = jax.lax.stop_gradient
        dynamics = self.stochastic.kl(stop(posterior), prior)
        representation = self.stochastic.kl(posterior, stop(prior))
        free = self.config.free_nats
        return jnp.maximum(dynamics, free), jnp.maximum(representation, free), stop(dynamics)
