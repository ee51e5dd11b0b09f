"""DreamerV3's train step written plainly: what the fast path is timed against, and must agree with.

The losses, parameters and optimiser are the agent's own; only how they are computed is what one writes first: the
shared input repeated into every block of the recurrent cell, noise drawn inside the scans by threefry and one Gumbel a
class, targets as two one-hots, nothing recomputed, one optimiser kernel a tensor. Discrete latents only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from mbrl.agents.dreamer import Dreamer, DreamerState
from mbrl.behaviours.actor_critic import ActionDistribution
from mbrl.bench.naive_images import draw, see
from mbrl.core import normalise
from mbrl.core.distributions import mix_uniform, symexp_bins
from mbrl.core.optim import OptimConfig, clip_by_agc, scale_by_laprop
from mbrl.core.types import Params, PRNGKey, Scalar, Sequence
from mbrl.nets.blocks import DenseNormAct, gru_update
from mbrl.nets.images import ImageDecoder, ImageEncoder
from mbrl.worldmodels.rssm import Latent

stop = jax.lax.stop_gradient


class Chance(NamedTuple):
    """Where randomness comes from; the tests put the fast path's own noise here."""

    posterior: Array  # [T, ...] one entry a step of the filter
    prior: Array  # [H, ...] one entry a step of imagination
    policy: Array  # [H, ...] keys
    latent: Callable[[Array, Array], Array]  # (entry, log-probabilities [*N, S, C]) -> one-hots


class Filtered(NamedTuple):
    """What observing and the model's losses leave for the behaviour."""

    latent: Latent  # [T, B, ...]
    loss: Scalar


def gumbel_one_hot(key: Array, log_probs: Float[Array, "*N S C"]) -> Float[Array, "*N S C"]:
    """Return a straight-through sample by the Gumbel-max trick."""
    probs = jnp.exp(log_probs)
    sample = jax.nn.one_hot(jax.random.categorical(key, log_probs), log_probs.shape[-1])
    return stop(sample - probs) + probs


def threefry(key: PRNGKey, steps: int, horizon: int) -> Chance:
    """Return one key a step."""
    keys = jax.random.split(key, steps + 2 * horizon)
    return Chance(keys[:steps], keys[steps : steps + horizon], keys[steps + horizon :], gumbel_one_hot)


def two_hot_loss(logits: Float[Array, "*N K"], value: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Return the cross-entropy to the two bins around ``value`` (Hafner et al. 2023, eq. 11)."""
    bins = symexp_bins(logits.shape[-1])
    below = jnp.clip((bins <= value[..., None]).sum(-1) - 1, 0, len(bins) - 2)
    share = (jnp.clip(value, bins[0], bins[-1]) - bins[below]) / (bins[below + 1] - bins[below])
    one_hot = lambda index: jax.nn.one_hot(index, len(bins))
    target = one_hot(below) * (1 - share)[..., None] + one_hot(below + 1) * share[..., None]
    return -(target * jax.nn.log_softmax(logits)).sum(-1)


def two_hot_mean(logits: Float[Array, "*N K"]) -> Float[Array, "*N"]:
    """Return the expectation, mirrored halves first so that undecided logits read zero."""
    probs = jax.nn.softmax(logits)
    half = logits.shape[-1] // 2
    weighted = probs * symexp_bins(logits.shape[-1])
    return (weighted[..., :half] + weighted[..., half + 1 :][..., ::-1]).sum(-1)


class Naive:
    """The train step of one agent, with that agent's parameters."""

    def __init__(self, dreamer: Dreamer) -> None:
        """Take sizes and networks from ``dreamer``."""
        self.dreamer, self.model, self.behaviour = dreamer, dreamer.model, dreamer.behaviour
        config: OptimConfig = dreamer.config.optim
        assert config.agc is not None, "the bench's agent clips adaptively"
        warm_up = lambda done: config.learning_rate * jnp.minimum(1.0, (done + 1) / max(1, config.warmup))
        self.optimiser = optax.chain(
            clip_by_agc(config.agc, config.agc_eps),
            scale_by_laprop(config.beta1, config.beta2, config.eps),
            optax.scale_by_learning_rate(warm_up),
        )

    def init(self, key: PRNGKey) -> DreamerState:
        """Draw the first state."""
        state = self.dreamer.init(key)
        return state._replace(optimiser=self.optimiser.init(state.params))

    def update(self, state: DreamerState, key: PRNGKey, sequence: Sequence) -> tuple[DreamerState, PyTree, Scalar]:
        """Learn from ``sequence [T + 1, B]``; return the new state, the new contexts and the loss."""
        chance = threefry(key, sequence.action.shape[0] - 1, self.behaviour.config.horizon)
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (latent, returns)), grads = gradient(state.params, state, chance, sequence)
        updates, optimiser = self.optimiser.update(grads, state.optimiser, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        rate = self.behaviour.config.slow_rate
        slow = jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, state.slow_critic, params["critic"])
        return DreamerState(params, slow, optimiser, returns), self.model.pack(latent), loss

    def loss(
        self, params: dict[str, Params], state: DreamerState, chance: Chance, sequence: Sequence
    ) -> tuple[Scalar, tuple[Latent, normalise.PercentileState]]:
        """Return the sum of all weighted losses, the posterior latents and the return statistics."""
        filtered = self.observe(params["model"], chance, sequence)
        behaviour, returns = self.behave(params, state, chance, sequence, filtered.latent)
        return filtered.loss + behaviour, (filtered.latent, returns)

    def advance(self, params: Params, latent: Latent, action: Array) -> Array:
        """Return the next deterministic state: every block has a copy of the whole projected input."""
        p, blocks = params["dynamics"], self.model.config.blocks
        action = action / stop(jnp.maximum(1.0, jnp.abs(action)))
        dense = DenseNormAct(self.model.config.hidden or 0)
        parts = (latent.deter, latent.stoch, action)
        joined = [dense.apply({"params": p[f"DenseNormAct_{i}"]}, part) for i, part in enumerate(parts)]
        shared = jnp.concatenate([jnp.asarray(part) for part in joined], -1)
        repeated = jnp.repeat(shared[..., None, :], blocks, -2)
        own = latent.deter.reshape((*latent.deter.shape[:-1], blocks, -1))
        first = p["BlockDense_0"]
        wide = first["shared"].reshape((shared.shape[-1], blocks, -1)).transpose((1, 0, 2))
        kernel = jnp.concatenate([first["kernel"], wide], 1)
        x = self.blockwise(jnp.concatenate([own, repeated], -1), kernel, first["bias"])
        scale = p["RMSNorm_0"]["scale"].reshape(-1)
        x = jax.nn.silu(x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-4) * scale)
        x = x.reshape((*x.shape[:-1], blocks, -1))
        gate = lambda i: self.blockwise(x, p[f"BlockDense_{i}"]["kernel"], p[f"BlockDense_{i}"]["bias"])
        return gru_update(gate(1), gate(2), gate(3), latent.deter)

    @staticmethod
    def blockwise(x: Array, kernel: Array, bias: Array) -> Array:
        """Multiply each block by its own matrix."""
        out = jnp.einsum("...gi,gio->...go", x, kernel)
        return out.reshape((*x.shape[:-2], -1)) + bias

    def logits(self, params: Params, name: str, inputs: Array) -> Array:
        """Return the log-probabilities ``[*N, S, C]`` of prior or posterior."""
        raw = jnp.asarray(self.model.nets[name].apply({"params": params[name]}, inputs))
        config = self.model.config
        return mix_uniform(raw.reshape((*raw.shape[:-1], config.stoch, config.classes or 0)), config.unimix)

    def plainly(self, params: Params) -> Callable[..., Any]:
        """Return what applies an encoder or decoder by name; those of images as they would be written first."""

        def apply(name: str, *inputs: Any) -> Any:
            net: Any = self.model.nets[name]
            if isinstance(net, ImageEncoder):
                return see(net, params[name], *inputs)
            if isinstance(net, ImageDecoder):
                return draw(net, params[name], *inputs)
            return net.apply({"params": params[name]}, *inputs)

        return apply

    def observe(self, params: Params, chance: Chance, sequence: Sequence) -> Filtered:
        """Filter the sequence and return the model's loss (Hafner et al. 2023, eq. 4-6)."""
        target = jax.tree.map(lambda x: x[1:], sequence.timestep)
        lead = target.reward.shape
        observation = target.observation
        token = self.model.senses.token(self.plainly(params), observation, lead)

        def body(latent: Latent, inputs: tuple) -> tuple[Latent, tuple[Latent, Array]]:
            action, token, first, chosen = inputs
            forget = lambda x: jnp.where(first[:, None], 0.0, x)
            deter = self.advance(params, jax.tree.map(forget, latent), forget(action))
            posterior = self.logits(params, "posterior", jnp.concatenate([deter, token], -1))
            stoch = chance.latent(chosen, posterior)
            latent = Latent(deter, stoch.reshape((*deter.shape[:-1], -1)))
            return latent, (latent, posterior)

        start = self.model.unpack(jax.tree.map(lambda x: x[0], sequence.context))
        inputs = (sequence.action[:-1], token, target.first(), chance.posterior)
        _, (latent, posterior) = jax.lax.scan(body, start, inputs)
        prior = self.logits(params, "prior", latent.deter)
        kl = lambda p, q: (jnp.exp(p) * (p - q)).sum((-2, -1))
        features = self.model.features(latent)
        apply = lambda name: jnp.asarray(self.model.nets[name].apply({"params": params[name]}, features))
        drawn = self.model.senses.expect(self.plainly(params), *latent)
        going = apply("discount")[..., 0]
        config = self.model.config
        free = config.free_nats
        losses = (
            config.reconstruction_scale * self.model.senses.misfit(drawn, observation, lead).mean()
            + config.reward_scale * two_hot_loss(apply("reward"), target.reward).mean()
            + config.discount_scale * optax.sigmoid_binary_cross_entropy(going, target.discount).mean()
            + config.dynamics_scale * jnp.maximum(free, kl(stop(posterior), prior)).mean()
            + config.representation_scale * jnp.maximum(free, kl(posterior, stop(prior))).mean()
        )
        return Filtered(latent, jnp.asarray(losses))

    def imagine(self, params: dict[str, Params], chance: Chance, start: Latent) -> tuple[Latent, Array]:
        """Roll out the policy from ``start [B]``; return latents ``[H + 1, B]`` and actions ``[H, B]``."""
        model = stop(params["model"])

        def body(latent: Latent, inputs: tuple) -> tuple[Latent, tuple[Latent, Array]]:
            chosen, key = inputs
            action = self.policy(stop(params["actor"]), self.model.features(latent)).sample(key)
            deter = self.advance(model, latent, action)
            stoch = chance.latent(chosen, self.logits(model, "prior", deter))
            latent = Latent(deter, stoch.reshape((*deter.shape[:-1], -1)))
            return latent, (latent, action)

        _, (latents, actions) = jax.lax.scan(body, start, (chance.prior, chance.policy))
        joined = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, latents)
        return jax.tree.map(stop, (joined, actions))

    def policy(self, actor: Params, features: Array) -> ActionDistribution:
        """Return the policy."""
        return self.behaviour.policy.apply(actor, features)

    def behave(
        self, params: dict[str, Params], state: DreamerState, chance: Chance, sequence: Sequence, latent: Latent
    ) -> tuple[Scalar, normalise.PercentileState]:
        """Return the losses of actor (REINFORCE) and critic, and the return statistics (eq. 7-12)."""
        config, model = self.behaviour.config, stop(params["model"])
        steps, batch = sequence.action.shape[0] - 1, sequence.action.shape[1]
        start = jax.tree.map(lambda x: stop(x).swapaxes(0, 1).reshape((steps * batch, *x.shape[2:])), latent)
        dream, action = self.imagine(params, chance, start)
        features = self.model.features(dream)
        head = lambda name: jnp.asarray(self.model.nets[name].apply({"params": model[name]}, features))
        value_logits = lambda critic, x: jnp.asarray(self.behaviour.critic.apply({"params": critic}, x))
        reward, going = two_hot_mean(head("reward")), jax.nn.sigmoid(head("discount")[..., 0])
        value = two_hot_mean(value_logits(stop(params["critic"]), features))
        alive = config.gamma * going
        returns = self.returns(reward[1:], alive[1:], value, jnp.full_like(reward[1:], config.lam))
        weight = jnp.cumprod(jnp.concatenate([going[:1], alive[1:]]), 0)[:-1]
        statistics = normalise.update(state.returns, returns, config.percentiles)
        _, scale = normalise.scale(statistics, config.percentiles)
        policy = self.policy(params["actor"], features[:-1])
        advantage = (returns - value[:-1]) / scale
        actor = -weight * (policy.log_prob(action) * advantage + config.entropy * policy.entropy())

        def critic(features: Array, target: Array) -> Array:
            logits = value_logits(params["critic"], features)
            slow = stop(two_hot_mean(value_logits(state.slow_critic, features)))
            return two_hot_loss(logits, stop(target)) + config.slow_scale * two_hot_loss(logits, slow)

        timestep = jax.tree.map(lambda x: x[1:], sequence.timestep)
        after = jax.tree.map(lambda x: x[1:], timestep)
        lam = config.lam * (1.0 - after.last())
        target = self.returns(after.reward, config.gamma * after.discount, returns[0].reshape((batch, steps)).T, lam)
        replayed = critic(self.model.features(latent)[:-1], target) * (1.0 - timestep.last()[:-1])
        imagined = weight * critic(features[:-1], returns)
        return actor.mean() + imagined.mean() + config.replay_scale * replayed.mean(), statistics

    @staticmethod
    def returns(reward: Array, discount: Array, value: Array, lam: Array) -> Array:
        """Return the lambda-returns, step by step from the end."""
        found = [value[-1]]
        for t in reversed(range(reward.shape[0])):
            found.append(reward[t] + discount[t] * ((1 - lam[t]) * value[t + 1] + lam[t] * found[-1]))
        return jnp.stack(found[:0:-1])
