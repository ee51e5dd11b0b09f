"""MBPO: an ensemble of probabilistic networks, and a soft actor-critic on short rollouts from replayed states."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from dm_env import specs
from jaxtyping import PyTree

from mbrl.agents import parts
from mbrl.agents.base import ActOutput, Agent, Diagnosis, Mode, UpdateOutput
from mbrl.agents.diagnosis import diagnose
from mbrl.agents.parts import Memory
from mbrl.agents.planning import action_value_problem
from mbrl.behaviours.soft_actor_critic import SoftActorCritic, SoftActorCriticConfig, replayed_steps, some_times
from mbrl.core import parallel
from mbrl.core.errors import UserError
from mbrl.core.optim import OptimConfig, make_optimiser
from mbrl.core.rows import tree_norm
from mbrl.core.types import Metrics, Params, PRNGKey, Sequence, Spec, TimeStep
from mbrl.nets.precision import Precision
from mbrl.worldmodels.ensemble import Ensemble, EnsembleConfig

# Adam, as in the papers. A tensor's norm counts as at least 1 for the behaviour's clipping: else the logarithm of a
# temperature that comes by 1 would be clipped to nothing there. The model's gradients are not clipped: a likelihood's
# are hundreds of times their tensors, and cut by another factor in each update it learned less, and that episodes end.
_ADAM = OptimConfig(optimiser="adam", agc_eps=1.0, eps=1e-8, warmup=0)


@dataclasses.dataclass(frozen=True)
class MBPOConfig:
    """The MBPO agent."""

    name: str = "mbpo"
    """The agent, for short `--agent`; see `mbrl list agents`."""
    precision: Precision = "f32"
    """Numbers that the networks multiply; for short `--precision`. Sums and all else are f32."""
    worldmodel: EnsembleConfig = EnsembleConfig()
    """The world model."""
    behaviour: SoftActorCriticConfig = SoftActorCriticConfig()
    """Learning from branched rollouts."""
    optim: OptimConfig = dataclasses.replace(_ADAM, learning_rate=1e-3, agc=None)
    """The optimiser of the model."""
    behaviour_optim: OptimConfig = dataclasses.replace(_ADAM, learning_rate=3e-4)
    """The optimiser of actor, critics and temperature."""
    behaviour_updates: int = 20
    """Updates of the behaviour, each on rollouts of its own, for each of the model."""
    behaviour_steps: int = 16
    """Time steps of a batch, at most, that each of them starts from, drawn anew; times the batch size are rollouts."""


class MBPOState(NamedTuple):
    """Everything that learns."""

    params: dict[str, Params]  # "model", "actor", "critic", "temperature"
    slow_critic: Params
    optimisers: dict[str, PyTree]  # "model", "behaviour"


class MBPO:
    """The composition; ``make`` hands its methods out as an ``Agent``."""

    def __init__(self, config: MBPOConfig, observation_spec: Spec, action_spec: specs.Array) -> None:
        """Build model, behaviour and optimisers for one task's specs; raises UserError for impossible configs."""
        for name in ("behaviour_updates", "behaviour_steps"):
            if getattr(config, name) < 1:
                raise UserError(f"agent.{name} must be at least 1; got {getattr(config, name)}")
        self.config = config
        self.model = Ensemble(config.worldmodel, observation_spec, action_spec, config.precision)
        self.behaviour = SoftActorCritic(config.behaviour, self.model, action_spec, config.precision)
        self.optimisers = {"model": make_optimiser(config.optim), "behaviour": make_optimiser(config.behaviour_optim)}

    def init(self, key: PRNGKey) -> MBPOState:
        """Draw the first state."""
        model_key, behaviour_key = jax.random.split(key)
        model, behaviour = self.model.init(model_key), self.behaviour.init(behaviour_key)
        learned = {"model": model, "behaviour": behaviour}
        optimisers = {name: optimiser.init(learned[name]) for name, optimiser in self.optimisers.items()}
        slow = jax.tree.map(jnp.copy, behaviour["critic"])
        return MBPOState({"model": model, **behaviour}, slow, optimisers)

    def initial(self, batch_size: int) -> Memory:
        """Return the memory of environments never seen."""
        return Memory(self.model.initial(batch_size), jnp.zeros((batch_size, self.model.actions)))

    def act(self, state: MBPOState, key: PRNGKey, memory: Memory, timestep: TimeStep, mode: Mode) -> ActOutput:
        """Filter what was seen and choose."""
        return parts.act(self.model, self.behaviour, state.params, key, memory, timestep, mode)

    def update(self, state: MBPOState, key: PRNGKey, sequence: Sequence) -> UpdateOutput:
        """Learn from ``sequence [T + 1, B]``: one gradient step of the model, then some of the behaviour inside it.

        Mapped over devices, B are the device's own rows; all come to the same state.
        """
        model_key, behaviour_key = jax.random.split(key)
        model = self.model.measure(state.params["model"], sequence)
        grads, output = jax.grad(self.model.loss, has_aux=True)(model, model_key, sequence)
        metrics = output.metrics | {f"loss/{name}": value.mean() for name, value in output.losses.items()}
        model, optimiser, metrics = self._descend("model", model, state.optimisers["model"], grads, metrics)
        start = self.model.unpack(jax.tree.map(lambda x: x[0], sequence.context))
        steps = replayed_steps(start, output.posterior.latent, sequence)

        def improve(carry: tuple, key: PRNGKey) -> tuple[tuple, Metrics]:
            params, slow, optimiser = carry
            times_key, loss_key = jax.random.split(key)
            some = some_times(steps, times_key, self.config.behaviour_steps)
            grads, metrics = jax.grad(self.behaviour.loss, has_aux=True)(params, model, slow, loss_key, some)
            params, optimiser, metrics = self._descend("behaviour", params, optimiser, grads, metrics)
            slow = optax.incremental_update(params["critic"], slow, self.config.behaviour.slow_rate)
            return (params, slow, optimiser), metrics

        behaviour = {name: part for name, part in state.params.items() if name != "model"}
        carry = *self.behaviour.measure(behaviour, state.slow_critic, steps), state.optimisers["behaviour"]
        keys = jax.random.split(behaviour_key, self.config.behaviour_updates)
        (params, slow, other), improved = jax.lax.scan(improve, carry, keys)
        metrics |= jax.tree.map(jnp.mean, improved)
        finite = parts.is_finite(metrics)
        new = MBPOState({"model": model, **params}, slow, {"model": optimiser, "behaviour": other})
        context = parts.fresh_context(self.model, sequence, output.posterior.latent)
        state, context = parts.keep(finite, (new, context), (state, sequence.context))
        return UpdateOutput(state, context, metrics | {"update/skipped": 1.0 - finite})

    def diagnose(self, state: MBPOState, key: PRNGKey, sequence: Sequence, context: int) -> Diagnosis:
        """Compare the model with ``sequence [T, B]`` (see ``Diagnosis``)."""
        return diagnose(self.model, self.behaviour, state.params, key, sequence, context)

    def _descend(
        self, name: str, params: Any, optimiser: Any, grads: Any, metrics: Metrics
    ) -> tuple[Any, Any, Metrics]:
        """Return parameters, optimiser's state and metrics after one step of one of the two optimisers."""
        grads, metrics = parallel.mean((grads, metrics))
        updates, optimiser = self.optimisers[name].update(grads, optimiser, params)
        metrics = metrics | {f"grad_norm/{name}": tree_norm(grads)}
        return optax.apply_updates(params, updates), optimiser, metrics


def make(config: MBPOConfig, observation_spec: Spec, action_spec: Spec) -> Agent:
    """Return MBPO for one task.

    Raises:
        UserError: the config cannot be built, or the task's specs are not supported.
    """
    mbpo = MBPO(config, observation_spec, parts.one_action("mbpo", action_spec))
    problem = action_value_problem(mbpo.model, mbpo.behaviour, config.behaviour.gamma)
    return Agent(mbpo.init, mbpo.initial, mbpo.act, mbpo.update, mbpo.diagnose, config.behaviour.gamma, problem)
