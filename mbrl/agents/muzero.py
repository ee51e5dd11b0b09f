"""MuZero: a value-equivalent latent model, a search that acts and teaches, and targets that are searched again."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from dm_env import specs
from jaxtyping import Array, Float, Int, PyTree

from mbrl.agents import parts
from mbrl.agents.base import ActOutput, Agent, Diagnosis, Mode, UpdateOutput
from mbrl.agents.diagnosis import diagnose
from mbrl.agents.planning import muzero_problem
from mbrl.agents.searching import Memory, Searcher, Target
from mbrl.behaviours.policy_value import PolicyValue, PolicyValueConfig
from mbrl.core import parallel
from mbrl.core.errors import UserError, unknown
from mbrl.core.optim import OptimConfig, make_optimiser
from mbrl.core.rows import tree_norm
from mbrl.core.types import Params, PRNGKey, Sequence, Spec, TimeStep
from mbrl.nets.precision import Precision
from mbrl.planners.distil import cross_entropy
from mbrl.planners.mcts import MCTSConfig
from mbrl.planners.soft_tree import SoftTreeConfig
from mbrl.worldmodels.base import weigh
from mbrl.worldmodels.muzero import MuZeroModel, MuZeroModelConfig, over_unroll, windows

PlannerConfig = TypeVar("PlannerConfig")

# The searches that act and teach, as this agent has them. Of refined candidates, all of which climb to one place, a
# policy would learn that place and no more.
SEARCHES: dict[str, Any] = {
    "mctx": MCTSConfig(simulations=16, wide_share=0.25),
    "soft_tree": SoftTreeConfig(refine=0),
}


@dataclasses.dataclass(frozen=True)
class MuZeroConfig(Generic[PlannerConfig]):
    """The MuZero agent; its type says which planner's settings it has."""

    name: str = "muzero"
    """The agent, for short `--agent`; see `mbrl list agents`."""
    precision: Precision = "f32"
    """Numbers that the networks multiply; for short `--precision`. Sums and all else are f32."""
    worldmodel: MuZeroModelConfig = MuZeroModelConfig()
    """The world model."""
    behaviour: PolicyValueConfig = PolicyValueConfig()
    """Policy and value."""
    planner: PlannerConfig = SEARCHES["mctx"]
    """The search that acts and teaches, `mctx` or `soft_tree`, whose settings then stand beside its name. Discrete
    actions are all candidates, however many it says; a soft tree then adds as many in a round."""
    reanalyse: float = 0.5
    """Share of a replayed sequence's steps that each update searches again, by the target network."""
    target_rate: float = 0.01
    """Rate at which the target network follows the networks."""
    optim: OptimConfig = OptimConfig(learning_rate=1e-3, warmup=100)
    """The optimiser of everything."""


class MuZeroState(NamedTuple):
    """Everything that learns."""

    params: dict[str, Params]  # "model", "actor", "critic"
    target: dict[str, Params]  # the same, following slowly
    optimiser: PyTree
    updates: Int[Array, ""]  # done so far


class MuZero:
    """The composition; ``make`` hands its methods out as an ``Agent``."""

    def __init__(self, config: MuZeroConfig, observation_spec: Spec, action_spec: specs.Array) -> None:
        """Build model, heads, search and optimiser for one task's specs; raises UserError for impossible configs."""
        if not 0 <= config.target_rate <= 1:
            raise UserError(f"agent.target_rate must lie in [0, 1]; got {config.target_rate}")
        self.config = config
        self.model = MuZeroModel(config.worldmodel, observation_spec, action_spec, config.precision)
        self.behaviour = PolicyValue(config.behaviour, self.model, action_spec, config.precision)
        self.problem = muzero_problem(self.model, self.behaviour)
        if getattr(config.planner, "name", None) not in SEARCHES:
            raise unknown("agent.planner of muzero", getattr(config.planner, "name", str(config.planner)), SEARCHES)
        self.searcher = Searcher(config.planner, self.problem, config.reanalyse)
        self.optimiser = make_optimiser(config.optim)

    def init(self, key: PRNGKey) -> MuZeroState:
        """Draw the first state."""
        model_key, behaviour_key = jax.random.split(key)
        params = {"model": self.model.init(model_key), **self.behaviour.init(behaviour_key)}
        return MuZeroState(params, jax.tree.map(jnp.copy, params), self.optimiser.init(params), jnp.int32(0))

    def initial(self, batch_size: int) -> Memory:
        """Return the memory of environments never seen."""
        action = jnp.zeros((batch_size, self.model.actions))
        return Memory(self.model.initial(batch_size), action, self.searcher.initial(batch_size))

    def act(self, state: MuZeroState, key: PRNGKey, memory: Memory, timestep: TimeStep, mode: Mode) -> ActOutput:
        """Represent what was seen and search from there."""
        memory, target = self.searcher.act(self.model, self.behaviour, state, key, memory, timestep, mode)
        return ActOutput(memory.action, memory, target)

    def update(self, state: MuZeroState, key: PRNGKey, sequence: Sequence) -> UpdateOutput:
        """Learn from ``sequence [T + 1, B]``: some searches anew, then one gradient step of everything.

        Mapped over devices, B are the device's own rows; all come to the same state.
        """
        target, slow, shown = state.target, state.target["model"], sequence
        if self.model.senses.shift:
            # What is searched and valued are the images as they are: so were those whose targets replay keeps.
            key, shift_key = jax.random.split(key)
            shown = self.model.senses.shifted(shift_key, sequence)
        seen = self.model.represent(slow, sequence.timestep.observation, sequence.timestep.reward.shape)
        searched = self.searcher.renew(target, key, seen, sequence.context, state.updates)
        value = self.behaviour.value(target["critic"], seen).mean()
        grads, metrics = jax.grad(self._loss, has_aux=True)(state.params, shown, searched, value)
        metrics |= {"search/age": parallel.masked_mean(searched.age(state.updates), searched.known())}
        grads, metrics = parallel.mean((grads, metrics))
        updates, optimiser = self.optimiser.update(grads, state.optimiser, state.params)
        norms = {f"grad_norm/{name}": tree_norm(part) for name, part in grads.items()}
        params = cast(dict[str, Params], optax.apply_updates(state.params, updates))
        target = optax.incremental_update(params, target, self.config.target_rate)
        new = MuZeroState(params, cast(dict[str, Params], target), optimiser, state.updates + 1)
        finite = parts.is_finite((metrics["loss/total"], norms))
        state, context = parts.keep(finite, (new, searched), (state, sequence.context))
        return UpdateOutput(state, context, metrics | norms | {"update/skipped": 1.0 - finite})

    def diagnose(self, state: MuZeroState, key: PRNGKey, sequence: Sequence, context: int) -> Diagnosis:
        """Compare the model with ``sequence [T, B]`` (see ``Diagnosis``)."""
        lead = sequence.timestep.reward.shape
        latent = self.model.represent(state.params["model"], sequence.timestep.observation, lead)
        # What replay keeps are searches: the first latent is made of what is seen, which is all it ever is.
        return diagnose(
            self.model, self.behaviour, state.params, key, sequence._replace(context=latent), context
        )

    def _loss(
        self, params: dict[str, Params], sequence: Sequence, searched: Target, value: Float[Array, "T B"]
    ):
        """Return the loss and metrics; gradients go through the unrolled dynamics into everything."""
        steps, behaviour, timestep = self.config.worldmodel.unroll, self.behaviour, sequence.timestep
        unrolled = self.model.unroll(params["model"], sequence)
        losses, metrics = self.model.losses(params["model"], unrolled, sequence)
        returns, valued, more = behaviour.targets(timestep, value, searched.value, searched.known())
        # Every start is unrolled into the same rows, each with what is known of the step that it comes to.
        along = lambda x: windows(x, steps).reshape((-1, *x.shape[2:]))
        latent = jax.tree.map(lambda x: x.reshape((-1, *x.shape[3:])), unrolled.latent)
        policy = behaviour.act(params["actor"], latent)
        lesson = cross_entropy(policy, along(searched.candidates), along(searched.weights))
        inside = unrolled.mask.ravel()
        known = inside * along(searched.known() * (1.0 - timestep.last()))
        learned = behaviour.losses(params, latent, lesson, known, along(returns), inside * along(valued))
        losses |= {name: over_unroll(loss.reshape(unrolled.mask.shape)) for name, loss in learned.items()}
        loss = weigh(losses, self.model.weights | behaviour.weights)
        metrics |= more | {f"loss/{name}": each.mean() for name, each in losses.items()}
        return loss, metrics | {"loss/total": loss}


def make(config: MuZeroConfig, observation_spec: Spec, action_spec: Spec) -> Agent:
    """Return MuZero for one task.

    Raises:
        UserError: the config cannot be built, or the task's specs are not supported.
    """
    muzero = MuZero(config, observation_spec, parts.one_action("muzero", action_spec))
    return Agent(
        muzero.init, muzero.initial, muzero.act, muzero.update, muzero.diagnose, config.behaviour.gamma, muzero.problem
    )
