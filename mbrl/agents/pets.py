"""PETS: an ensemble of probabilistic networks, and CEM over particles that its members move; no policy, no value."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from dm_env import specs
from jaxtyping import Array, Float, PyTree

from mbrl import planners
from mbrl.agents import parts
from mbrl.agents.base import ActOutput, Agent, Diagnosis, Mode, UpdateOutput
from mbrl.agents.diagnosis import compare
from mbrl.agents.planning import Particles, forget, particle_problem, particles_of
from mbrl.core import parallel
from mbrl.core.errors import UserError
from mbrl.core.optim import OptimConfig, make_optimiser
from mbrl.core.rows import tree_norm
from mbrl.core.types import Params, PRNGKey, Sequence, Spec, TimeStep
from mbrl.nets.precision import Precision
from mbrl.planners.shooting import ShootingConfig
from mbrl.worldmodels.base import Latent
from mbrl.worldmodels.ensemble import Ensemble, EnsembleConfig

# Of the public code: 400 candidates, 40 elites, 5 iterations, at first a quarter of the range as deviation.
_CEM = ShootingConfig(
    "cem", samples=400, horizon=25, iterations=5, elites=40, policy_samples=0, weighting="alike", max_std=0.5
)
# Environments whose plans are in memory at a time, when a recording is diagnosed.
_PLANS = 8


@dataclasses.dataclass(frozen=True)
class PETSConfig:
    """The PETS agent."""

    name: str = "pets"
    """The agent, for short `--agent`; see `mbrl list agents`."""
    precision: Precision = "f32"
    """Numbers that the networks multiply; for short `--precision`. Sums and all else are f32."""
    worldmodel: EnsembleConfig = EnsembleConfig()
    """The world model."""
    planner: ShootingConfig = _CEM
    """What acts, in training as in evaluation. Nothing is known of what comes after its horizon."""
    particles: int = 20
    """Particles of each candidate, a multiple of the members; the mean of their returns is its own."""
    keep_member: bool = True
    """Whether a particle stays with its member (TSinf of the paper) or is dealt to one anew in each step (TS1)."""
    gamma: float = 1.0
    """Discount per agent step within the horizon."""
    optim: OptimConfig = OptimConfig(learning_rate=1e-3, optimiser="adam", agc=None, agc_eps=1.0, eps=1e-8, warmup=0)
    """The optimiser; as MBPO's of the model it does not clip."""


class PETSState(NamedTuple):
    """Everything that learns."""

    params: dict[str, Params]  # "model"
    optimiser: PyTree


class Memory(NamedTuple):
    """What acting remembers of N environments."""

    latent: Particles  # [N, P, ...], all where the environment was seen to be
    action: Float[Array, "N A"]  # the last action taken
    plan: PyTree  # [N, ...] to begin the next one with


class PETS:
    """The composition; ``make`` hands its methods out as an ``Agent``."""

    def __init__(self, config: PETSConfig, observation_spec: Spec, action_spec: specs.Array) -> None:
        """Build model, planner and optimiser for one task's specs; raises UserError for impossible configs."""
        if isinstance(action_spec, specs.DiscreteArray):
            raise UserError("pets takes continuous actions only and these are discrete; take dreamer or muzero")
        self.config = config
        self.model = Ensemble(config.worldmodel, observation_spec, action_spec, config.precision)
        members = config.worldmodel.members
        if config.particles < 1 or config.particles % members:
            raise UserError(
                f"agent.particles must be a multiple of agent.worldmodel.members ({members}); got {config.particles}"
            )
        self.problem = particle_problem(self.model, config.gamma, keep=config.keep_member)
        self.planner = planners.make(config.planner, self.problem)
        self.optimiser = make_optimiser(config.optim)

    def init(self, key: PRNGKey) -> PETSState:
        """Draw the first state."""
        params = {"model": self.model.init(key)}
        return PETSState(params, self.optimiser.init(params["model"]))

    def initial(self, batch_size: int) -> Memory:
        """Return the memory of environments never seen."""
        latent = particles_of(self.model.initial(batch_size), self.config.particles)
        return Memory(latent, jnp.zeros((batch_size, self.model.actions)), self.planner.initial(batch_size))

    def act(self, state: PETSState, key: PRNGKey, memory: Memory, timestep: TimeStep, mode: Mode) -> ActOutput:
        """Take in what was seen and plan, with the same effort in training and in evaluation: planning explores."""
        filter_key, plan_key = jax.random.split(key)
        before = jax.tree.map(lambda x: x[:, 0], memory.latent.latent)
        latent = self.model.step(state.params["model"], filter_key, before, memory.action, timestep)
        seen, begun = particles_of(latent, self.config.particles), forget(self.planner, memory.plan, timestep)
        if mode == "random":
            action = jax.random.uniform(plan_key, memory.action.shape, minval=-1.0, maxval=1.0)
            return ActOutput(action, Memory(seen, action, begun), self.model.pack(latent))
        plan, following = self.planner.plan(state.params, plan_key, seen, begun)
        return ActOutput(plan.action, Memory(seen, plan.action, following), self.model.pack(latent))

    def update(self, state: PETSState, key: PRNGKey, sequence: Sequence) -> UpdateOutput:
        """Learn from ``sequence [T + 1, B]``, of devices their own rows: one gradient step of the model."""
        model = self.model.measure(state.params["model"], sequence)
        grads, output = jax.grad(self.model.loss, has_aux=True)(model, key, sequence)
        latent = output.posterior.latent
        metrics = output.metrics | {f"loss/{name}": value.mean() for name, value in output.losses.items()}
        grads, metrics = parallel.mean((grads, metrics))
        metrics |= {"grad_norm/model": tree_norm(grads)}
        updates, optimiser = self.optimiser.update(grads, state.optimiser, model)
        params: Any = optax.apply_updates(model, updates)
        finite = parts.is_finite(metrics)
        new, context = PETSState({"model": params}, optimiser), parts.fresh_context(self.model, sequence, latent)
        state, context = parts.keep(finite, (new, context), (state, sequence.context))
        return UpdateOutput(state, context, metrics | {"update/skipped": 1.0 - finite})

    def diagnose(self, state: PETSState, key: PRNGKey, sequence: Sequence, context: int) -> Diagnosis:
        """Compare the model with ``sequence [T, B]`` (see ``Diagnosis``).

        What is imagined is what a plan from there promises, made from nothing, over its horizon; the value is 0.
        """

        def promised(inputs: tuple[PRNGKey, Latent]) -> Array:
            key, latent = inputs
            start = particles_of(jax.tree.map(lambda x: x[None], latent), self.config.particles)
            return self.planner.plan(state.params, key, start, self.planner.initial(1))[0].value[0]

        def promise(key: PRNGKey, latent: Latent) -> tuple[Array, Array]:
            keys = jax.random.split(key, jax.tree.leaves(latent)[0].shape[0])
            returns = jax.lax.map(promised, (keys, latent), batch_size=_PLANS)
            return returns, jnp.zeros_like(returns)

        return compare(self.model, promise, state.params["model"], key, sequence, context)


def make(config: PETSConfig, observation_spec: Spec, action_spec: Spec) -> Agent:
    """Return PETS for one task.

    Raises:
        UserError: the config cannot be built, or the task's specs are not supported.
    """
    pets = PETS(config, observation_spec, parts.one_action("pets", action_spec))
    return Agent(pets.init, pets.initial, pets.act, pets.update, pets.diagnose, config.gamma, pets.problem)
