"""TD-MPC2: a latent model without a decoder, planned in by MPPI, and values learned by temporal differences."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from dm_env import specs
from jaxtyping import PyTree

from mbrl import planners
from mbrl.agents import parts
from mbrl.agents.base import ActOutput, Agent, Diagnosis, Mode, UpdateOutput
from mbrl.agents.diagnosis import diagnose
from mbrl.agents.planning import action_value_problem, forget
from mbrl.agents.searching import Memory, exploring, settled
from mbrl.behaviours.temporal_difference import Path, TemporalDifference, TemporalDifferenceConfig
from mbrl.core import normalise, parallel
from mbrl.core.errors import UserError, unknown
from mbrl.core.optim import OptimConfig, make_optimiser
from mbrl.core.rows import tree_norm
from mbrl.core.types import Params, PRNGKey, Sequence, Spec, TimeStep
from mbrl.nets.precision import Precision
from mbrl.planners.shooting import ShootingConfig
from mbrl.worldmodels.base import weigh
from mbrl.worldmodels.latent_td import LatentTD, LatentTDConfig
from mbrl.worldmodels.sizes import TD_SIZES, TDSize

_ADAM = OptimConfig(learning_rate=3e-4, optimiser="adam", clip=20.0, agc=None, eps=1e-8, warmup=0)


@dataclasses.dataclass(frozen=True)
class TDMPC2Config:
    """The TD-MPC2 agent."""

    name: str = "tdmpc2"
    """The agent, for short `--agent`; see `mbrl list agents`."""
    size: TDSize = "5m"
    """Preset of all widths that are not set themselves; for short `--size`."""
    precision: Precision = "f32"
    """Numbers that the networks multiply; for short `--precision`. Sums and all else are f32."""
    worldmodel: LatentTDConfig = LatentTDConfig()
    """The world model."""
    behaviour: TemporalDifferenceConfig = TemporalDifferenceConfig()
    """Values and the policy prior."""
    planner: ShootingConfig = ShootingConfig()
    """What acts. While it trains, it draws one of the elites by weight and adds noise, whatever is set here."""
    optim: OptimConfig = _ADAM
    """The optimiser of model and critics."""
    policy_optim: OptimConfig = dataclasses.replace(_ADAM, eps=1e-5)
    """The optimiser of the policy."""
    encoder_rate: float = 0.3
    """Learning rate of the encoder, in shares of the others'."""


class TDMPC2State(NamedTuple):
    """Everything that learns."""

    params: dict[str, Params]  # "model", "actor", "critic"
    slow_critic: Params
    optimiser: PyTree
    returns: normalise.PercentileState


def resolve(config: TDMPC2Config) -> TDMPC2Config:
    """Return the config with every width that was `None` filled from its size; raises UserError for no such size."""
    if config.size not in TD_SIZES:
        raise unknown("agent.size", config.size, TD_SIZES)
    widths, model = TD_SIZES[config.size], config.worldmodel
    depth = widths.depth if model.images.depth is None else model.images.depth
    filled = {"latent": widths.latent, "units": widths.units, "encoder_units": widths.encoder}
    filled |= {"encoder_layers": widths.layers, "critics": widths.critics}
    missing = lambda part: {name: x for name, x in filled.items() if getattr(part, name, 0) is None}
    images = dataclasses.replace(model.images, depth=depth)
    behaviour = dataclasses.replace(config.behaviour, **missing(config.behaviour))
    model = dataclasses.replace(model, images=images, **missing(model))
    return dataclasses.replace(config, worldmodel=model, behaviour=behaviour)


class TDMPC2:
    """The composition; ``make`` hands its methods out as an ``Agent``."""

    def __init__(self, config: TDMPC2Config, observation_spec: Spec, action_spec: specs.Array) -> None:
        """Build model, behaviour, planners and optimisers for one task's specs; raises UserError for what cannot be."""
        if not config.encoder_rate >= 0:
            raise UserError(f"agent.encoder_rate must be at least 0; got {config.encoder_rate}")
        self.config = config = resolve(config)
        self.model = LatentTD(config.worldmodel, observation_spec, action_spec, config.precision)
        self.behaviour = TemporalDifference(config.behaviour, self.model, action_spec, config.precision)
        self.problem = action_value_problem(self.model, self.behaviour, self.behaviour.gamma)
        named = {"train": exploring(config.planner, self.problem), "eval": settled(config.planner)}
        self.planners = {mode: planners.make(planner, self.problem) for mode, planner in named.items()}
        values, policy = make_optimiser(config.optim), make_optimiser(config.policy_optim)
        # Decoders have one of their own: in the others' norm, which is bounded, they would have a say after all.
        each: dict[Any, Any] = {"values": values, "policy": policy, "decoder": values}
        self.optimiser = optax.chain(optax.partition(each, self._owners), optax.stateless(self._slowed))

    def init(self, key: PRNGKey) -> TDMPC2State:
        """Draw the first state."""
        model_key, behaviour_key = jax.random.split(key)
        params = {"model": self.model.init(model_key), **self.behaviour.init(behaviour_key)}
        slow = jax.tree.map(jnp.copy, params["critic"])
        return TDMPC2State(params, slow, self.optimiser.init(params), normalise.init())

    def initial(self, batch_size: int) -> Memory:
        """Return the memory of environments never seen."""
        action = jnp.zeros((batch_size, self.model.actions))
        return Memory(self.model.initial(batch_size), action, self.planners["eval"].initial(batch_size))

    def act(self, state: TDMPC2State, key: PRNGKey, memory: Memory, timestep: TimeStep, mode: Mode) -> ActOutput:
        """Encode what was seen and plan; nothing is stored beside a time step, for it can be encoded anew."""
        filter_key, plan_key = jax.random.split(key)
        latent = self.model.step(state.params["model"], filter_key, memory.latent, memory.action, timestep)
        begun = forget(self.planners["eval"], memory.plan, timestep)
        if mode == "random":
            action = self.behaviour.choose(state.params["actor"], plan_key, latent, mode)
            return ActOutput(action, Memory(latent, action, begun), ())
        plan, following = self.planners[mode].plan(state.params, plan_key, latent, begun)
        return ActOutput(plan.action, Memory(latent, plan.action, following), ())

    def update(self, state: TDMPC2State, key: PRNGKey, sequence: Sequence) -> UpdateOutput:
        """Learn from ``sequence [T + 1, B]``: one gradient step of model, critics and policy together.

        Mapped over devices, B are the device's own rows; all come to the same state.
        """
        grads, (returns, metrics) = jax.grad(self._loss, has_aux=True)(state.params, state, key, sequence)
        grads, metrics = parallel.mean((grads, metrics))
        updates, optimiser = self.optimiser.update(grads, state.optimiser, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        slow = optax.incremental_update(params["critic"], state.slow_critic, self.config.behaviour.slow_rate)
        metrics |= {f"grad_norm/{name}": tree_norm(part) for name, part in grads.items()}
        finite = parts.is_finite(metrics)
        state = parts.keep(finite, TDMPC2State(params, slow, optimiser, returns), state)
        return UpdateOutput(state, sequence.context, metrics | {"update/skipped": 1.0 - finite})

    def diagnose(self, state: TDMPC2State, key: PRNGKey, sequence: Sequence, context: int) -> Diagnosis:
        """Compare the model with ``sequence [T, B]`` (see ``Diagnosis``); what is imagined does not plan."""
        timestep = sequence.timestep
        latent = self.model.encode(state.params["model"], timestep.observation, timestep.reward.shape)
        sequence = sequence._replace(context=self.model.pack(latent))
        return diagnose(self.model, self.behaviour, state.params, key, sequence, context)

    def _loss(self, params: dict[str, Params], state: TDMPC2State, key: PRNGKey, sequence: Sequence):
        model_key, behaviour_key = jax.random.split(key)
        unrolled = self.model.unroll(params["model"], model_key, sequence)
        losses, metrics = self.model.losses(params["model"], unrolled)
        path = Path(
            features=self.model.features(unrolled.latent),
            action=unrolled.pieces.action[:-1],
            seen=self.model.features(unrolled.seen),
            timestep=jax.tree.map(lambda x: x[1:], unrolled.pieces.timestep),
            decay=unrolled.decay,
            reached=unrolled.reached,
        )
        own = {name: params[name] for name in ("actor", "critic")}
        loss, (returns, more) = self.behaviour.loss(own, state.slow_critic, state.returns, behaviour_key, path)
        loss += weigh(losses, self.model.weights)
        metrics |= more | {f"loss/{name}": value.mean() for name, value in losses.items()} | {"loss/total": loss}
        return loss, (returns, metrics)

    def _owners(self, params: dict[str, Params]) -> dict[str, Any]:
        """Return whose optimiser each part of the parameters belongs to."""
        drawn = self.model.senses.decoders
        model = {name: "decoder" if name in drawn else "values" for name in params["model"]}
        return {"model": model, "actor": "policy", "critic": "values"}

    def _slowed(self, steps: Any, _: Any) -> Any:
        """Return the steps of all with the encoder's at its own rate."""
        slower = lambda name, step: self.config.encoder_rate * step if name in self.model.encoders else step
        model = {name: jax.tree.map(partial(slower, name), part) for name, part in steps["model"].items()}
        return steps | {"model": model}


def make(config: TDMPC2Config, observation_spec: Spec, action_spec: Spec) -> Agent:
    """Return TD-MPC2 for one task, or for several that an integer ``task`` tells apart.

    Raises:
        UserError: the config cannot be built, or the task's specs are not supported.
    """
    agent = TDMPC2(config, observation_spec, parts.one_action("tdmpc2", action_spec))
    gamma = agent.behaviour.gamma
    return Agent(agent.init, agent.initial, agent.act, agent.update, agent.diagnose, gamma, agent.problem)
