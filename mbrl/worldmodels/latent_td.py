"""TD-MPC2's decoder-free model of latents that serve control (Hansen et al. 2024, section 3.1).

Symbols: x observation, e learned embedding of the task, z latent, a action, r reward, c whether the episode goes on.
    encoder  z = h(x, e)      dynamics  z' = d(z, a, e)      heads  r' = R(z, a, e), c' = C(z', e)
z lies in groups of entries that sum to 1 (``simnorm``). From h of a piece's first observation the model is unrolled
over its actions; with z_t unrolled and rho the decay, the losses are (eq. 3)
    consistency  rho^t |z_{t+1} - stop(h(x_{t+1}))|^2 / Z      reward  rho^t CE(R(z_t, a_t), r_{t+1})
and CE(C(z_{t+1}), c_{t+1}), t = 0..H-1. Whoever learns values adds their loss on the same unrolled latents. A piece
counts until an episode ends in it. Decoders learn beside the model, from latents that they have no say in: they show
in reports what is known, and no more.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array, Float, Int

from mbrl.core import parallel
from mbrl.core.distributions import Bernoulli, SymlogTwoHot
from mbrl.core.errors import UserError
from mbrl.core.types import (
    Metrics,
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
from mbrl.nets.images import ImageConfig
from mbrl.nets.mish import MishHead, MishMLP, SimplexMLP
from mbrl.nets.precision import Precision, dtype_of
from mbrl.worldmodels.base import Dream, ModelOutput, Policy, Posterior, Prediction, into_box, prepend, roll, weigh
from mbrl.worldmodels.senses import Senses, SensesConfig

# The observation's key that says which task is on; an integer.
TASK = "task"
# The logit of going on where nothing is predicted: certain, in float32.
SURE = 20.0

stop = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class LatentTDConfig:
    """The world model. Fields left at `None` follow the agent's size."""

    latent: int | None = None
    """Width of the latent state."""
    group: int = 8
    """Entries of a latent that sum to 1 together; must divide half of the width."""
    units: int | None = None
    """Width of the hidden layers of dynamics and heads."""
    layers: int = 2
    """Hidden layers of dynamics and heads."""
    encoder_units: int | None = None
    """Width of the encoder's hidden layers."""
    encoder_layers: int | None = None
    """Layers of the encoder, the one that makes the latent among them."""
    images: ImageConfig = ImageConfig()
    """Encoders of images."""
    task_dim: int = 96
    """Width of a task's embedding, where the observation has an integer `task`."""
    discount: bool = True
    """Learn whether the episode goes on; without, planners take it to go on for ever."""
    bins: int = 101
    """Bins of the two-hot reward head (odd)."""
    horizon: int = 3
    """Steps H that the model is unrolled over in training; at most `replay.batch_length`, and best a divisor of it."""
    rho: float = 0.5
    """Decay of the losses' weights over the unrolled steps."""
    consistency_scale: float = 20.0
    """Weight of the loss that draws unrolled latents to encoded ones."""
    reward_scale: float = 0.1
    """Weight of the reward loss."""
    discount_scale: float = 1.0
    """Weight of the loss of whether the episode goes on."""
    decoder_layers: int = 2
    """Hidden layers of the vectors' decoder."""


# What each number is at least.
_LEAST = dict.fromkeys(("latent", "group", "units", "encoder_units", "encoder_layers", "task_dim", "horizon"), 1) | (
    dict.fromkeys(("layers", "decoder_layers", "consistency_scale", "reward_scale", "discount_scale"), 0)
)


class Latent(NamedTuple):
    """The model's state, and what it expected on arriving there."""

    state: Float[Array, "*N Z"]
    task: Float[Array, "*N E"] | None  # the task's embedding, where there are several
    reward: Float[Array, "*N K"]  # logits
    going: Float[Array, "*N"]  # logit of the episode going on


class Unrolled(NamedTuple):
    """R pieces of replayed experience, and what the model makes of them from their first observations on."""

    latent: Latent  # [H + 1, R, ...] unrolled over the actions; gradients reach the encoder
    seen: Latent  # [H, R, ...] of the observations that came instead; no gradient passes
    pieces: Sequence  # [H + 1, R, ...]
    reached: Float[Array, "H+1 R"]  # 1 until the episode of the first step ends, 0 from the next one's FIRST on
    decay: Float[Array, "H+1 1"]  # rho^t


def check(config: LatentTDConfig) -> None:
    """Raise a UserError for sizes that cannot be built and weights that make no sense."""
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if value is None or not value >= least:
            raise UserError(f"worldmodel.{name} must be at least {least}; got {value}")
    latent = config.latent or 0
    if latent % (2 * config.group):
        nearest = max(1, round(latent / (2 * config.group))) * 2 * config.group
        raise UserError(
            f"worldmodel.latent must be a multiple of twice worldmodel.group ({config.group}); got {latent}, the "
            f"nearest is {nearest}"
        )
    if config.bins < 3 or config.bins % 2 == 0:
        raise UserError(f"worldmodel.bins must be odd and at least 3; got {config.bins}")
    if not 0 < config.rho <= 1:
        raise UserError(f"worldmodel.rho must be above 0 and at most 1; got {config.rho}")


def task_count(spec: Spec) -> int:
    """Return how many tasks an observation's ``task`` tells apart, 0 where it has none.

    Raises:
        UserError: it is an integer whose spec does not say how many there are.
    """
    task = as_dict(spec).get(TASK)
    if task is None or not np.issubdtype(task.dtype, np.integer):
        return 0
    if isinstance(task, specs.BoundedArray) and task.shape == () and np.min(task.minimum) >= 0:
        return int(np.max(task.maximum)) + 1
    raise UserError(
        f"observation 'task' must be a DiscreteArray, a whole number from 0 up of which it is known how many there are"
        f"; got {task}"
    )


def cut(sequence: Sequence, horizon: int) -> Sequence:
    """Return ``[T + 1, B]`` as whole pieces ``[H + 1, B T // H]`` that share their borders.

    What belongs to a sequence lies together (see ``behaviours.base.rows_first``).

    Raises:
        UserError: the sequence is shorter than a piece.
    """
    length = sequence.action.shape[0] - 1
    if length < horizon:
        raise UserError(f"worldmodel.horizon must be at most replay.batch_length ({length}); got {horizon}")
    times = horizon * np.arange(length // horizon)[None] + np.arange(horizon + 1)[:, None]

    def one(x: Array) -> Array:
        parts = jnp.swapaxes(x[times], 1, 2)
        return parts.reshape((horizon + 1, -1, *x.shape[2:]))

    timestep, action = jax.tree.map(one, (sequence.timestep, sequence.action))
    return Sequence(timestep, action, ())


class LatentTD:
    """A ``WorldModel``; holds the network definitions, never parameters.

    It remembers nothing: ``observe`` encodes each observation by itself, so a latent's only past is the reward that was
    expected with it, forgotten where a step is FIRST.
    """

    def __init__(
        self, config: LatentTDConfig, observation_spec: Spec, action_spec: specs.Array, precision: Precision = "f32"
    ) -> None:
        """Build the networks.

        Args:
            config: with every size filled in.
            observation_spec: of one environment; an integer ``task`` is embedded, bytes [H, W, C] are images, all else
                are vectors.
            action_spec: of one environment.
            precision: of the numbers that the networks multiply.

        Raises:
            UserError: for sizes that do not divide, observations that cannot be read, or a precision that the device
                lacks.
        """
        check(config)
        units, latent, group, dtype = config.units or 0, config.latent or 0, config.group, dtype_of(precision)
        self.config, self.width = config, latent
        self.actions, self.tasks = action_dim(action_spec), task_count(observation_spec)
        told = {name: part for name, part in as_dict(observation_spec).items() if name != TASK or not self.tasks}
        if self.tasks and not told:
            raise UserError("the observation holds nothing but 'task'; tdmpc2 needs vectors or images beside it")
        layers = config.encoder_layers or 0, config.decoder_layers
        self.senses = Senses(told, SensesConfig(config.images, layers, units, 1, recompute=True), dtype)
        self.read = sum(math.prod(shape) for shape in self.senses.vectors.values())
        self.embedded = config.task_dim if self.tasks else 0
        images = {name: net for name, net in self.senses.encoders.items() if name != "encoder"}
        inner = layers[0] - 1, config.encoder_units or 0
        # Vectors alone go through one network, as in the paper; beside images it ends before the layer that joins all.
        beside = {"vectors": MishMLP(*inner, dtype)} if images and self.read + self.embedded else {}
        encoder = SimplexMLP(0 if images else inner[0], inner[1], latent, group, dtype)
        self.encoders: dict[str, nn.Module] = {**images, **beside, "encoder": encoder}
        self.nets: dict[str, nn.Module] = {
            **self.encoders,
            **self.senses.decoders,
            "dynamics": SimplexMLP(config.layers, units, latent, group, dtype),
            "reward": MishHead(config.layers, units, config.bins, silent=True, dtype=dtype),
        }
        self.weights = {"consistency": config.consistency_scale, "reward": config.reward_scale, "reconstruction": 1.0}
        if config.discount:
            self.nets["discount"] = MishHead(config.layers, units, 1, dtype=dtype)
            self.weights["discount"] = config.discount_scale

    def init(self, key: PRNGKey) -> Params:
        """Draw parameters, one entry per network, and the table of tasks ``[tasks, E]``."""
        task_key, *keys = jax.random.split(key, 1 + len(self.nets))
        latent, action = self.initial(1), jnp.zeros((1, self.actions))
        known = self.features(latent)
        vectors = jnp.zeros((1, self.read + self.embedded))
        inputs: dict[str, tuple[Any, ...]] = self.senses.inputs(*jnp.split(latent.state, 2, -1)) | {
            "vectors": (vectors,),
            "dynamics": (jnp.concatenate([known, action], -1),),
            "reward": (jnp.concatenate([known, action], -1),),
            "discount": (known,),
        }
        # Of shapes alone nothing is drawn, whatever the key.
        shape = lambda name: jax.eval_shape(self.nets[name].init_with_output, task_key, *inputs[name])[0].shape
        tokens = [jnp.zeros(shape(name)) for name in self.encoders if name != "encoder"] or [vectors]
        inputs["encoder"] = (jnp.concatenate(tokens, -1),)
        named = zip(keys, self.nets.items(), strict=True)
        # A network of no layers, which some sizes leave beside images, has no parameters.
        params = {name: net.init(part, *inputs[name]).get("params", {}) for part, (name, net) in named}
        if self.tasks:
            params["task"] = jax.random.uniform(task_key, (self.tasks, self.embedded), minval=-0.02, maxval=0.02)
        return params

    def initial(self, batch_size: int) -> Latent:
        """Return the state before anything was seen: zeros, and an episode that goes on."""
        zeros = lambda width: jnp.zeros((batch_size, width))
        task = zeros(self.embedded) if self.tasks else None
        return Latent(zeros(self.width), task, zeros(self.config.bins), jnp.full(batch_size, SURE))

    def features(self, latent: Latent) -> Float[Array, "*N F"]:
        """Return the latent state, and the task's embedding beside it."""
        return latent.state if latent.task is None else jnp.concatenate([latent.state, latent.task], -1)

    def step(
        self, params: Params, key: PRNGKey, latent: Latent, action: Float[Array, "B A"], timestep: TimeStep
    ) -> Latent:
        """Take in one time step (see ``WorldModel.step``): what is seen, and the reward expected to come with it."""
        del key
        seen = self.encode(params, timestep.observation, timestep.reward.shape)
        return self._filtered(params, self._move(params, latent, action), timestep, seen)

    def observe(self, params: Params, key: PRNGKey, latent: Latent, sequence: Sequence) -> Posterior:
        """Take in ``sequence [T + 1, B]`` from the latent after its first step; nothing in it is random."""
        del key
        after = jax.tree.map(lambda x: x[1:], sequence.timestep)
        seen = self.encode(params, after.observation, after.reward.shape)
        before = prepend(latent, jax.tree.map(lambda x: x[:-1], seen))
        return _posterior(self._filtered(params, self._move(params, before, sequence.action[:-1]), after, seen))

    def imagine(
        self, params: Params, key: PRNGKey, latent: Latent, policy: Policy | Array, horizon: int
    ) -> Dream:
        """Roll forward (see ``WorldModel.imagine``); nothing but the policy is random."""
        move = lambda latent, action, _: self._move(params, latent, action)
        return roll(move, latent, policy, key, jnp.zeros(horizon))

    def predict(self, params: Params, latent: Latent) -> Prediction:
        """Return what the latents ``[*N]`` hold: reward and discount that were expected, and what decoders draw."""
        # A decoder of images takes a latent in two parts, which an RSSM has and this has not: it is halved.
        observation = self.senses.expect(partial(self._apply, params), *jnp.split(latent.state, 2, -1))
        return Prediction(SymlogTwoHot(latent.reward), Bernoulli(latent.going), observation)

    def encode(self, params: Params, observation: Observation, lead: tuple[int, ...]) -> Latent:
        """Return the latents ``[*lead]`` of observations, as if each were an episode's first."""
        seen = as_dict(observation)
        task = embed(params["task"], seen[TASK]) if self.tasks else None
        vectors = [seen[name].reshape((*lead, -1)).astype(jnp.float32) for name in self.senses.vectors]
        vectors += [] if task is None else [task]
        tokens = [jnp.concatenate(vectors, -1)] if vectors else []
        if self.senses.images:
            tokens = [self._apply(params, "vectors", *tokens)] if tokens else []
            tokens += [self._apply(params, f"encoder_{name}", seen[name]) for name in self.senses.images]
        state = self._apply(params, "encoder", jnp.concatenate(tokens, -1))
        return Latent(state, task, jnp.zeros((*lead, self.config.bins)), jnp.full(lead, SURE))

    def unroll(self, params: Params, key: PRNGKey, sequence: Sequence) -> Unrolled:
        """Return ``sequence [T + 1, B]`` in pieces, each unrolled from the encoding of its first observation.

        Args:
            params: gradients reach them along the whole unrolled path.
            key: for the random shift of images.
            sequence: stored latents are not used, so there is no context: the first step is a piece's beginning.
        """
        if self.senses.shift:
            sequence = self.senses.shifted(key, sequence)
        pieces = cut(sequence, self.config.horizon)
        begin, after = (jax.tree.map(lambda x: x[at], pieces.timestep) for at in (0, slice(1, None)))
        start = self.encode(params, begin.observation, begin.reward.shape)
        seen = self.encode(stop(params), after.observation, after.reward.shape)
        dream = self.imagine(params, key, start, pieces.action[:-1], self.config.horizon)
        first = pieces.timestep.first().astype(jnp.float32)
        # A piece may well begin with FIRST: it is later ones that end it.
        reached = jnp.cumprod(1.0 - first.at[0].set(0.0), 0)
        decay = self.config.rho ** jnp.arange(self.config.horizon + 1)[:, None]
        return Unrolled(dream.latent, stop(seen), pieces, reached, decay)

    def losses(self, params: Params, unrolled: Unrolled) -> tuple[dict[str, Float[Array, "H R"]], Metrics]:
        """Return the losses of unrolled pieces, decayed and without what was not reached, and metrics."""
        arrived = unrolled.latent, unrolled.pieces.timestep, unrolled.reached
        latent, timestep, reached = jax.tree.map(lambda x: x[1:], arrived)
        seen = unrolled.seen
        weight = unrolled.decay[:-1] * reached
        far = jnp.square(latent.state - seen.state).mean(-1)
        expected = self.predict(params, latent)
        shown = self.senses.expect(partial(self._apply, params), *jnp.split(seen.state, 2, -1))
        losses = {
            "consistency": weight * far,
            "reward": weight * -expected.reward.log_prob(timestep.reward),
            "reconstruction": reached * self.senses.misfit(shown, timestep.observation, timestep.reward.shape),
        }
        if self.config.discount:
            losses["discount"] = reached * -expected.discount.log_prob(timestep.discount)
        # Latents that had all become alike would be consistent, too.
        mean = lambda x: parallel.masked_mean(x, reached)
        spread = parallel.gather(seen.state, axis=1).std((0, 1)).mean()
        metrics = {"model/latent_error": mean(far), "model/latent_spread": spread}
        return losses, metrics

    def loss(self, params: Params, key: PRNGKey, sequence: Sequence) -> tuple[Scalar, ModelOutput]:
        """Return the model's weighted loss on ``sequence [T + 1, B]``, without that of values.

        Losses are those of R pieces, ``[H, R]``, and so are the posterior's latents: of what was seen.
        """
        unrolled = self.unroll(params, key, sequence)
        losses, metrics = self.losses(params, unrolled)
        return weigh(losses, self.weights), ModelOutput(_posterior(unrolled.seen), losses, metrics)

    def pack(self, latent: Latent) -> Latent:
        """Return the latent: it is as small as it gets."""
        return latent

    def unpack(self, packed: Latent) -> Latent:
        """Return the latent."""
        return packed

    def _apply(self, params: Params, name: str, *inputs: Any) -> Any:
        return self.nets[name].apply({"params": params[name]}, *inputs)

    def _move(self, params: Params, latent: Latent, action: Float[Array, "*N A"]) -> Latent:
        """Return where actions lead, and the reward on arriving."""
        inputs = jnp.concatenate([self.features(latent), into_box(action)], -1)
        after = latent._replace(
            state=self._apply(params, "dynamics", inputs), reward=self._apply(params, "reward", inputs)
        )
        if not self.config.discount:
            return after._replace(going=jnp.full_like(latent.going, SURE))
        return after._replace(going=self._apply(params, "discount", self.features(after))[..., 0])

    def _filtered(self, params: Params, expected: Latent, timestep: TimeStep, seen: Latent) -> Latent:
        """Return what was seen, the reward that was expected to come with it, and whether the episode goes on."""
        first = timestep.first()
        going = expected.going
        if self.config.discount:
            going = self._apply(params, "discount", self.features(seen))[..., 0]
        reward = jnp.where(first[..., None], 0.0, expected.reward)
        return seen._replace(reward=reward, going=jnp.where(first, SURE, going))


def embed(table: Float[Array, "M E"], task: Int[Array, "*N"]) -> Float[Array, "*N E"]:
    """Return the tasks' embeddings, shrunk to a norm of 1 where they are longer (Hansen et al. 2024, section 3.3)."""
    chosen = table[task]
    return chosen / jnp.maximum(1.0, stop(jnp.linalg.norm(chosen, axis=-1, keepdims=True)))


def _posterior(latent: Latent) -> Posterior:
    return Posterior(latent, jnp.zeros((*latent.going.shape, 0)))  # of no distribution: nothing is drawn
