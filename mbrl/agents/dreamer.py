"""Dreamer: an RSSM, and an actor-critic that learns by backpropagating imagined rollouts through it."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from dm_env import specs
from jaxtyping import PyTree

from mbrl.agents import distilling, parts
from mbrl.agents.base import ActOutput, Agent, Diagnosis, Mode, UpdateOutput
from mbrl.agents.diagnosis import diagnose
from mbrl.agents.distilling import DistilConfig
from mbrl.agents.parts import Memory
from mbrl.agents.planning import dreamer_problem
from mbrl.behaviours.actor_critic import ActorCritic, ActorCriticConfig
from mbrl.core import normalise, parallel
from mbrl.core.errors import unknown
from mbrl.core.optim import OptimConfig, make_optimiser
from mbrl.core.rows import tree_norm
from mbrl.core.types import Params, PRNGKey, Sequence, Spec, TimeStep
from mbrl.nets.precision import Precision
from mbrl.planners import NoPlannerConfig
from mbrl.worldmodels.rssm import RSSM, RSSMConfig
from mbrl.worldmodels.sizes import SIZES, Size

PlannerConfig = TypeVar("PlannerConfig")

_NONE: Any = NoPlannerConfig()


@dataclasses.dataclass(frozen=True)
class DreamerConfig(Generic[PlannerConfig]):
    """The Dreamer agent; its type says which planner's settings it has."""

    name: str = "dreamer"
    """The agent, for short `--agent`; see `mbrl list agents`."""
    size: Size = "1m"
    """Preset of all widths that are not set themselves; for short `--size`."""
    precision: Precision = "f32"
    """Numbers that the networks multiply; for short `--precision`. Sums and all else are f32."""
    worldmodel: RSSMConfig = RSSMConfig()
    """The world model."""
    behaviour: ActorCriticConfig = ActorCriticConfig()
    """Learning in imagination."""
    planner: PlannerConfig = _NONE
    """What acts in the policy's place: `none`, or a planner, whose settings then stand beside its name. While it trains
    it explores, whatever is set of how it chooses."""
    distil: DistilConfig = DistilConfig()
    """What the policy learns from that planner."""
    optim: OptimConfig = OptimConfig()
    """The optimiser of everything."""
    replay_context: bool = True
    """Start replayed sequences from stored latents instead of from nothing."""


class DreamerState(NamedTuple):
    """Everything that learns."""

    params: dict[str, Params]  # "model", "actor", "critic"
    slow_critic: Params
    optimiser: PyTree
    returns: normalise.PercentileState
    updates: PyTree = None  # Int[Array, ""], done so far, where plans have an age; else nothing


def resolve(config: DreamerConfig) -> DreamerConfig:
    """Return the config with every width that was `None` filled from its size; raises UserError for no such size."""
    if config.size not in SIZES:
        raise unknown("agent.size", config.size, SIZES)
    widths = SIZES[config.size]
    filled = {"deter": widths.deter, "hidden": widths.units, "units": widths.units, "classes": widths.classes}
    missing: dict[str, Any] = {
        name: width for name, width in filled.items() if getattr(config.worldmodel, name) is None
    }
    images = config.worldmodel.images
    if images.depth is None:
        missing["images"] = dataclasses.replace(images, depth=widths.depth)
    units = widths.units if config.behaviour.units is None else config.behaviour.units
    return dataclasses.replace(
        config,
        worldmodel=dataclasses.replace(config.worldmodel, **missing),
        behaviour=dataclasses.replace(config.behaviour, units=units),
    )


class Dreamer:
    """The composition; ``make`` hands its methods out as an ``Agent``."""

    def __init__(self, config: DreamerConfig, observation_spec: Spec, action_spec: specs.Array) -> None:
        """Build model, behaviour and optimiser for one task's specs; raises UserError for impossible configs."""
        self.config = resolve(config)
        self.model = RSSM(self.config.worldmodel, observation_spec, action_spec, config.precision)
        self.behaviour = ActorCritic(self.config.behaviour, self.model, action_spec, config.precision)
        self.problem = dreamer_problem(self.model, self.behaviour)
        distilling.check(config.distil, config.planner, self.problem)
        self.optimiser = make_optimiser(self.config.optim)

    def init(self, key: PRNGKey) -> DreamerState:
        """Draw the first state."""
        model_key, behaviour_key = jax.random.split(key)
        params = {"model": self.model.init(model_key), **self.behaviour.init(behaviour_key)}
        slow = jax.tree.map(jnp.copy, params["critic"])
        return DreamerState(params, slow, self.optimiser.init(params), normalise.init())

    def initial(self, batch_size: int) -> Memory:
        """Return the memory of environments never seen."""
        return Memory(self.model.initial(batch_size), jnp.zeros((batch_size, self.model.actions)))

    def act(self, state: DreamerState, key: PRNGKey, memory: Memory, timestep: TimeStep, mode: Mode) -> ActOutput:
        """Filter what was seen and choose."""
        return parts.act(self.model, self.behaviour, state.params, key, memory, timestep, mode)

    def update(self, state: DreamerState, key: PRNGKey, sequence: Sequence) -> UpdateOutput:
        """Learn from ``sequence [T + 1, B]``: one gradient step of model, actor and critic together.

        Mapped over devices, B are the device's own rows; all come to the same state.
        """
        grads, (context, returns, metrics) = jax.grad(self._loss, has_aux=True)(state.params, state, key, sequence)
        grads, metrics = parallel.mean((grads, metrics))
        updates, optimiser = self.optimiser.update(grads, state.optimiser, state.params)
        norms = {f"grad_norm/{name}": tree_norm(part) for name, part in grads.items()}
        finite = parts.is_finite((metrics["loss/total"], norms))
        keep = partial(parts.keep, finite)
        params = optax.apply_updates(state.params, keep(updates, jax.tree.map(jnp.zeros_like, updates)))
        params = cast(dict[str, Params], params)
        rate = jnp.where(finite, self.config.behaviour.slow_rate, 0.0)
        slow = optax.incremental_update(params["critic"], state.slow_critic, rate)
        state = state._replace(
            params=params,
            slow_critic=slow,
            optimiser=keep(optimiser, state.optimiser),
            returns=keep(returns, state.returns),
        )
        skipped = {"update/skipped": 1.0 - finite}
        return UpdateOutput(state, keep(context, sequence.context), metrics | norms | skipped)

    def diagnose(self, state: DreamerState, key: PRNGKey, sequence: Sequence, context: int) -> Diagnosis:
        """Compare the model with ``sequence [T, B]`` (see ``Diagnosis``)."""
        return diagnose(self.model, self.behaviour, state.params, key, sequence, context)

    def _loss(self, params: dict[str, Params], state: DreamerState, key: PRNGKey, sequence: Sequence):
        model_key, behaviour_key = jax.random.split(key)
        start = None if self.config.replay_context else self.model.initial(sequence.action.shape[1])
        model_loss, output = self.model.loss(params["model"], model_key, sequence, start)
        behaviour_loss, (returns, metrics) = self.behaviour.loss(
            {"actor": params["actor"], "critic": params["critic"]},
            params["model"],
            state.slow_critic,
            state.returns,
            behaviour_key,
            output.posterior.latent,
            jax.tree.map(lambda x: x[1:], sequence.timestep),
        )
        loss = model_loss + behaviour_loss
        metrics |= output.metrics | {f"loss/{name}": value.mean() for name, value in output.losses.items()}
        context = parts.fresh_context(self.model, sequence, output.posterior.latent)
        return loss, (context, returns, metrics | {"loss/total": loss})


def make(config: DreamerConfig, observation_spec: Spec, action_spec: Spec) -> Agent:
    """Return Dreamer for one task.

    Raises:
        UserError: the config cannot be built, or the task's specs are not supported.
    """
    from mbrl.agents.planned_dreamer import PlannedDreamer  # which is made of what stands above

    kind = Dreamer if isinstance(config.planner, NoPlannerConfig) else PlannedDreamer
    dreamer = kind(config, observation_spec, parts.one_action("dreamer", action_spec))
    return Agent(
        init=dreamer.init,
        initial=dreamer.initial,
        act=dreamer.act,
        update=dreamer.update,
        diagnose=dreamer.diagnose,
        gamma=dreamer.config.behaviour.gamma,
        problem=dreamer.problem,
    )
