"""The training program: collect, add, learn, as one jitted scan over one immutable ``TrainState``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mbrl.agents import AGENTS
from mbrl.agents.base import Agent, AgentEntry, Mode
from mbrl.core.errors import UserError
from mbrl.core.types import Metrics, PRNGKey, Sequence, action_dim, example, restart, to_env_action
from mbrl.envs import make_vector
from mbrl.envs.base import VectorEnvironment
from mbrl.envs.dm import HostVectorEnv
from mbrl.evaluation.exploitation import Gap
from mbrl.replay import frames
from mbrl.replay.ring import Address, Ring, RingState
from mbrl.runner import devices, fsdp
from mbrl.runner.compiled import options
from mbrl.runner.config import Config
from mbrl.runner.seeds import over_seeds, run_key
from mbrl.runner.state import Collector, Faults, TrainState

Refresh: TypeAlias = Callable[[Any, PRNGKey, RingState, Address], tuple[Any, Metrics, RingState, Sequence]]


class Program(NamedTuple):
    """A config made runnable; the functions are jitted and compile once each. Epochs donate their argument.

    Collecting alone is a program of its own: it compiles in a fraction of the time, so a run shows signs of life early.
    """

    agent: Agent
    env: VectorEnvironment
    ring: Ring
    init: Callable[[PRNGKey], TrainState]
    prefill: Callable[[TrainState], tuple[TrainState, Metrics]]  # an epoch of random actions, no learning
    epoch: Callable[[TrainState], tuple[TrainState, Metrics]]
    # An agent's state as acting and judging need it, on every device: without what the optimiser has split.
    whole: Callable[[Any], Any] = lambda agent_state: agent_state
    places: Any = None  # the sharding of each leaf of the state; None where all of it lies on one device
    gap: Gap | None = None  # how far the model is exploited, where that is to be logged


class Episodes(NamedTuple):
    """Sums over what happened while collecting; a fresh one each epoch."""

    finished: Int[Array, ""]
    returns: Float[Array, ""]
    lengths: Int[Array, ""]
    reward: Float[Array, ""]


def make_program(config: Config) -> Program:
    """Build agent, environments, replay and the jitted functions of a config.

    Raises:
        UserError: the environment or the agent cannot be made.
    """
    env = make_vector(config.training_env, config.num_envs)
    mesh = devices.mesh(config)
    if isinstance(env, HostVectorEnv):
        _check_host(config, mesh)
    entry = AGENTS[config.agent.name]
    if not isinstance(entry, AgentEntry):
        raise TypeError(f"{config.agent.name} brings its own training loop")
    agent = entry.make(config.agent, env.observation_spec, env.action_spec)
    # An epoch traces the update twice, for the metrics' shapes and for itself; jit remembers what it traced.
    agent = agent._replace(update=jax.jit(agent.update))
    if config.replay.frames == "host":
        frames.check(env.observation_spec, jax.local_devices()[0])
    ring = Ring(config.replay, config.num_envs)
    parts = (agent, env, ring)
    # Where the devices share what learns, an epoch's agent acts on all of it.
    split = devices.split(mesh, config, agent.init)
    whole = fsdp.bring_together(mesh, split)
    acting = agent._replace(act=lambda agent_state, *rest: agent.act(whole(agent_state), *rest))
    refresh = devices.over_rows(mesh, partial(refresh_rows, agent, ring), split)
    collecting_parts = (acting, env, ring)
    init, learning = over_seeds(
        config, lambda key: init_state(*parts, key), lambda state: epoch(*collecting_parts, config, refresh, state)
    )
    _, collecting = over_seeds(config, init, lambda state: prefill(*collecting_parts, config, state))
    places = devices.places(mesh, config, jax.eval_shape(init, run_key(config)), split)
    jit = lambda function: jax.jit(
        devices.over_seeds(mesh, function), donate_argnums=0, in_shardings=(places,), out_shardings=(places, None)
    )
    return Program(
        *parts,
        init=jax.jit(partial(_begin, init, ring, places), out_shardings=places, compiler_options=options(0)),
        prefill=jit(collecting),
        epoch=jit(learning),
        whole=whole,
        places=places,
    )


def _begin(init: Callable[..., TrainState], ring: Ring, places: Any, key: PRNGKey | jax.Array) -> TrainState:
    """Return the first state with the frames where they belong; what `vmap` made of a ring's zeros is not computed."""
    state = init(key)
    return state._replace(replay=ring.settle(state.replay, None if places is None else places.replay))


def _check_host(config: Config, mesh: Any) -> None:
    """Refuse what a Python environment cannot do."""
    for name, asked in {"seeds": config.seeds > 1, "devices": mesh is not None}.items():
        if asked:
            raise UserError(
                f"environment {config.env.name!r} runs in Python, call by call, so {name} must be 1, not "
                f"{getattr(config, name)}"
            )
    if config.replay.frames == "host":  # a program that calls Python in order cannot place its results
        raise UserError(
            f"environment {config.env.name!r} runs in Python, call by call, so replay.frames must be device, not host"
        )


def init_state(agent: Agent, env: VectorEnvironment, ring: Ring, key: PRNGKey) -> TrainState:
    """Draw the first state of a run, its ring not settled yet.

    Jit it: buffers of an unjitted one may be shared, and then not be donated.
    """
    agent_key, env_key, run_key = jax.random.split(key, 3)
    count = env.num_envs
    env_state, timestep = env.reset(env_key)
    nothing = jnp.zeros(count)
    collector = Collector(env_state, timestep, agent.initial(count), nothing, nothing.astype(jnp.int32))
    agent_state = agent.init(agent_key)
    step = step_example(agent, env, agent_state)
    window = lambda x: jnp.zeros((ring.config.batch_length + 1, ring.config.batch_size, *x.shape[1:]), x.dtype)
    zero = jnp.int32(0)
    faults = Faults(zero, zero, jax.tree.map(window, step))
    return TrainState(agent_state, collector, ring.blank(step), zero, zero, faults, run_key)


def step_example(agent: Agent, env: VectorEnvironment, agent_state: Any) -> Sequence:
    """Return zeros of what replay stores of N environments in one step, ``[N, ...]``."""
    first = restart(example(env.observation_spec))
    timestep = jax.tree.map(lambda x: jnp.zeros((env.num_envs, *x.shape), x.dtype), first)
    act = lambda key: agent.act(agent_state, key, agent.initial(env.num_envs), timestep, "train")
    output = jax.eval_shape(act, jax.random.key(0))
    context = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), output.context)
    return Sequence(timestep, jnp.zeros((env.num_envs, action_dim(env.action_spec))), context)


def updates_due(config: Config, vector_steps: Int[Array, ""]) -> Int[Array, ""]:
    """Return how many updates should have been done after this many vector steps.

    Exactly floor(updates per vector step * (vector steps - those of the prefill)), as a ratio of integers, so that no
    rounding error adds up over a run. The prefill's steps are not made up for.
    """
    ratio = config.updates_per_vector_step
    learning = jnp.maximum(vector_steps - config.prefill_epochs * config.epoch // config.num_envs, 0)
    whole, rest = learning // ratio.denominator, learning % ratio.denominator
    return whole * ratio.numerator + rest * ratio.numerator // ratio.denominator


def collect(
    agent: Agent, env: VectorEnvironment, ring: Ring, state: TrainState, key: PRNGKey, mode: Mode
) -> tuple[TrainState, Collector]:
    """Act once in N environments and store the step; return also where the environments stand now."""
    before = state.env
    output = agent.act(state.agent, key, before.carry, before.timestep, mode)
    step = Sequence(before.timestep, output.action, output.context)
    env_state, timestep = env.step(before.env, to_env_action(env.action_spec, output.action))
    fresh = timestep.first()
    returns = jnp.where(fresh, 0.0, before.returns + timestep.reward)
    lengths = jnp.where(fresh, 0, before.lengths + 1)
    collector = Collector(env_state, timestep, output.carry, returns, lengths)
    return state._replace(env=collector, replay=ring.add(state.replay, step)), collector


def refresh_rows(
    agent: Agent, ring: Ring, agent_state: Any, key: PRNGKey, replay: RingState, address: Address
) -> tuple[Any, Metrics, RingState, Sequence]:
    """Update the agent once on the sequences at an address, and their contexts with it.

    Mapped over devices, each has its own part of the replay and of the batch.
    """
    sequence = ring.read(replay, address)
    output = agent.update(agent_state, key, sequence)
    return output.state, output.metrics, ring.update_context(replay, address, output.context), sequence


def learn(
    ring: Ring, refresh: Refresh, state: TrainState, key: PRNGKey, sums: Metrics
) -> tuple[TrainState, Metrics]:
    """Draw one batch and update the agent once; add the update's metrics to ``sums``."""
    sample_key, update_key = jax.random.split(key)
    address = ring.draw(state.replay, sample_key)
    agent_state, metrics, replay, sequence = refresh(state.agent, update_key, state.replay, address)
    skipped = metrics["update/skipped"] > 0
    faults = state.faults._replace(
        updates=state.faults.updates + skipped,
        batch=jax.tree.map(lambda new, old: jnp.where(skipped, new, old), sequence, state.faults.batch),
    )
    # A skipped update's metrics are what was not finite: they would spoil the epoch's means.
    healthy = {name: jnp.where(skipped, 0.0, value) for name, value in metrics.items()}
    sums = jax.tree.map(jnp.add, sums, healthy | {"update/skipped": skipped.astype(jnp.float32)})
    state = state._replace(
        agent=agent_state,
        replay=replay,
        updates=state.updates + 1,
        faults=faults,
    )
    return state, sums


def prefill(
    agent: Agent, env: VectorEnvironment, ring: Ring, config: Config, state: TrainState
) -> tuple[TrainState, Metrics]:
    """Collect ``config.epoch`` agent steps by acting uniformly at random; what ``epoch`` returns, without updates."""

    def body(carry: tuple, _: None) -> tuple[tuple, None]:
        state, episodes = carry
        key, act_key = jax.random.split(state.key)
        state, collector = collect(agent, env, ring, state, act_key, "random")
        state = state._replace(step=state.step + config.num_envs * config.env.action_repeat, key=key)
        return (state, tally(episodes, collector)), None

    (state, episodes), _ = jax.lax.scan(body, (state, no_episodes()), None, config.epoch // config.num_envs)
    state = state._replace(faults=state.faults._replace(physics=state.env.env.faults))
    return state, describe(config, state, episodes)


def epoch(
    agent: Agent, env: VectorEnvironment, ring: Ring, config: Config, refresh: Refresh, state: TrainState
) -> tuple[TrainState, Metrics]:
    """Collect ``config.epoch`` agent steps in N environments, learning between them as the train ratio says.

    Args:
        agent, env, ring, config: the program's parts.
        refresh: ``refresh_rows`` of them, perhaps on several devices.
        state: to go on from.

    Returns:
        the new state and scalars: means over the epoch's updates (NaN where there was none), over the episodes that
        ended in it (likewise), and counters.
    """
    per_step = config.num_envs * config.env.action_repeat

    def body(carry: tuple, _: None) -> tuple[tuple, None]:
        state, sums, episodes = carry
        key, act_key, learn_key = jax.random.split(state.key, 3)
        vector_steps = state.step // per_step
        state, collector = collect(agent, env, ring, state, act_key, "train")
        state = state._replace(step=state.step + per_step, key=key)
        due = updates_due(config, vector_steps + 1) - updates_due(config, vector_steps)
        one = lambda i, carry: learn(ring, refresh, carry[0], jax.random.fold_in(learn_key, i), carry[1])
        state, sums = jax.lax.fori_loop(0, due, one, (state, sums))
        return (state, sums, tally(episodes, collector)), None

    before = state
    sequence, _ = jax.eval_shape(ring.sample, state.replay, state.key)
    shapes = jax.eval_shape(agent.update, state.agent, state.key, sequence).metrics
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    length = config.epoch // config.num_envs
    (state, sums, episodes), _ = jax.lax.scan(body, (state, sums, no_episodes()), None, length)
    state = state._replace(faults=state.faults._replace(physics=state.env.env.faults))
    updates, skipped = state.updates - before.updates, state.faults.updates - before.faults.updates
    healthy = jnp.where(updates > skipped, updates - skipped, jnp.nan)
    means = {name: value / healthy for name, value in sums.items()}
    counts = {
        "update/skipped": skipped.astype(jnp.float32),
        "run/updates": state.updates.astype(jnp.float32),
        "run/updates_per_step": updates / (state.step - before.step),
    }
    return state, means | counts | describe(config, state, episodes)


def no_episodes() -> Episodes:
    """Return sums over nothing."""
    return Episodes(jnp.int32(0), jnp.float32(0), jnp.int32(0), jnp.float32(0))


def tally(episodes: Episodes, collector: Collector) -> Episodes:
    """Add the episodes that have just ended, and the rewards of one vector step."""
    last = collector.timestep.last()
    return Episodes(
        finished=episodes.finished + last.sum(dtype=jnp.int32),
        returns=episodes.returns + jnp.where(last, collector.returns, 0.0).sum(),
        lengths=episodes.lengths + jnp.where(last, collector.lengths, 0).sum(dtype=jnp.int32),
        reward=episodes.reward + collector.timestep.reward.sum(),
    )


def describe(config: Config, state: TrainState, episodes: Episodes) -> Metrics:
    """Return the scalars of an epoch's collection; NaN where no episode ended."""
    ended = jnp.where(episodes.finished > 0, episodes.finished, jnp.nan)
    return {
        "episode/count": episodes.finished.astype(jnp.float32),
        "episode/return": episodes.returns / ended,
        "episode/length": episodes.lengths / ended,
        "episode/reward_rate": episodes.reward / config.epoch,
        "fault/updates": state.faults.updates.astype(jnp.float32),
        "fault/physics": state.faults.physics.astype(jnp.float32),
    }
