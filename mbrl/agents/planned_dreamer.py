"""Dreamer with a planner that acts in its model, and perhaps teaches its policy on replayed states."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Float, PyTree

from mbrl.agents import distilling
from mbrl.agents.base import ActOutput, Diagnosis, Mode, UpdateOutput
from mbrl.agents.dreamer import Dreamer, DreamerConfig, DreamerState
from mbrl.agents.searching import Memory, Searcher, Target, target_of
from mbrl.core import normalise
from mbrl.core.types import Metrics, Params, PRNGKey, Scalar, Sequence, Spec, TimeStep
from mbrl.planners.distil import value_ascent
from mbrl.worldmodels.base import Latent

stop = jax.lax.stop_gradient


class Kept(NamedTuple):
    """What replay keeps of a step whose plan is learned from."""

    latent: PyTree  # packed
    target: Target


class PlannedDreamer(Dreamer):
    """The composition with a planner; what the policy learns besides its own loss says ``distilling``.

    A target is made where the planner acts, and lazily made anew: each update searches some of the steps it meets
    again, by the parameters as they are, and hands the targets back with the latents as the sequence's contexts.
    """

    def __init__(self, config: DreamerConfig, observation_spec: Spec, action_spec: specs.Array) -> None:
        """Build Dreamer and its planner for one task's specs; raises UserError for impossible configs."""
        super().__init__(config, observation_spec, action_spec)
        self.lesson = config.distil
        self.searcher = Searcher(config.planner, self.problem, config.distil.reanalyse)
        self.keeps = config.distil.name in distilling.IMITATIONS
        self.teacher = self.searcher
        if config.distil.name == "value":
            self.teacher = distilling.unrefined(config.planner, self.problem, config.distil.reanalyse)

    def init(self, key: PRNGKey) -> DreamerState:
        """Draw the first state."""
        return super().init(key)._replace(updates=jnp.int32(0))

    def initial(self, batch_size: int) -> Memory:
        """Return the memory of environments never seen."""
        return Memory(*super().initial(batch_size), self.searcher.initial(batch_size))

    def act(self, state: DreamerState, key: PRNGKey, memory: Memory, timestep: TimeStep, mode: Mode) -> ActOutput:
        """Filter what was seen and search from there."""
        memory, target = self.searcher.act(self.model, self.behaviour, state, key, memory, timestep, mode)
        latent = self.model.pack(memory.latent)
        return ActOutput(memory.action, memory, Kept(latent, target) if self.keeps else latent)

    def update(self, state: DreamerState, key: PRNGKey, sequence: Sequence) -> UpdateOutput:
        """Learn from ``sequence [T + 1, B]`` as Dreamer does, and from the planner; some targets come back anew."""
        output = super().update(state, key, sequence)
        done = state.updates + (1 - output.metrics["update/skipped"]).astype(jnp.int32)
        return output._replace(state=output.state._replace(updates=done))

    def diagnose(self, state: DreamerState, key: PRNGKey, sequence: Sequence, context: int) -> Diagnosis:
        """Compare the model with ``sequence [T, B]`` (see ``Diagnosis``); what is imagined does not plan."""
        return super().diagnose(state, key, self._plain(sequence), context)

    def _plain(self, sequence: Sequence) -> Sequence:
        """Return a sequence with the contexts that Dreamer itself would have kept."""
        return sequence._replace(context=sequence.context.latent) if self.keeps else sequence

    def _loss(self, params: dict[str, Params], state: DreamerState, key: PRNGKey, sequence: Sequence):
        loss_key, search_key = jax.random.split(key)
        loss, (context, returns, metrics) = super()._loss(params, state, loss_key, self._plain(sequence))
        if self.lesson.name == "none":
            return loss, (context, returns, metrics)
        latent = stop(self.model.unpack(jax.tree.map(lambda x: x[1:], context)))
        goes_on = 1.0 - sequence.timestep.last()[1:]
        if self.keeps:
            taught, target, more = self._imitate(params, state, search_key, latent, goes_on, sequence.context.target)
            context = Kept(context, target)
        else:
            taught, more = self._ascend(params, state, search_key, latent, goes_on)
        loss += self.lesson.scale * taught
        return loss, (context, returns, metrics | more | {"loss/distil": taught, "loss/total": loss})

    def _imitate(
        self, params: dict[str, Params], state: DreamerState, key: PRNGKey, latent: Latent,
        goes_on: Float[Array, "T B"], kept: Target,
    ) -> tuple[Scalar, Target, Metrics]:
        """Return the loss towards targets, the targets ``[T + 1, B]`` with some of them new, and metrics."""
        old = jax.tree.map(lambda x: x[1:], kept)
        target = self.searcher.renew(state.params, key, latent, old, state.updates)
        policy = self.behaviour.act(params["actor"], _flat(latent))
        rows, counts = _flat(target), goes_on * target.known()
        each = distilling.imitation(self.lesson, policy, rows)
        metrics = distilling.told(policy, rows, each, counts, state.updates)
        back = jax.tree.map(lambda before, after: before.at[1:].set(after), kept, target)
        return (counts.ravel() * each).mean(), back, metrics

    def _ascend(
        self, params: dict[str, Params], state: DreamerState, key: PRNGKey, latent: Latent, goes_on: Float[Array, "T B"]
    ) -> tuple[Scalar, Metrics]:
        """Return the loss whose gradient is the plans' value's by the policy, of some times, and metrics.

        In units of the actor's own returns, so that both losses can have one weight.
        """
        live = stop(state.params) | {"actor": params["actor"]}
        times, plan = self.teacher.some(live, key, latent)
        config = self.behaviour.config
        unit = normalise.scale(state.returns, config.percentiles)[1] if config.normalise_returns else jnp.float32(1)
        # The plans' rows are of one sequence after the other.
        here = jax.tree.map(lambda x: jnp.swapaxes(x[times], 0, 1), latent)
        counts = goes_on[times].T
        each = value_ascent(plan.value) / unit
        policy = self.behaviour.act(params["actor"], _flat(here))
        metrics = distilling.told(policy, target_of(plan, state.updates), each, counts, state.updates)
        return (counts.ravel() * each).mean(), metrics


def _flat(tree: PyTree) -> PyTree:
    """Return ``[T, B, ...]`` as ``[T B, ...]``."""
    return jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), tree)
