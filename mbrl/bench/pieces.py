"""What is timed: the pieces of a training run, each as a function and the arguments it is called with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from mbrl.agents.dreamer import Dreamer, DreamerConfig
from mbrl.bench.flops import count
from mbrl.bench.naive import Naive
from mbrl.core.types import FIRST, LAST, MID, Sequence, TimeStep
from mbrl.envs import EnvConfig, make, make_vector
from mbrl.envs.render import make_render
from mbrl.evaluation.rollout import make_evaluate
from mbrl.runner.config import Config
from mbrl.runner.epoch import make_program, updates_due
from mbrl.runner.seeds import run_key

# DreamerV3's published parameter counts are for these observations and this action.
Obs: TypeAlias = Literal["vector", "image"]
SEEN: dict[Obs, specs.Array] = {
    "vector": specs.Array((24,), np.float32, name="observation"),
    "image": specs.BoundedArray((64, 64, 3), np.uint8, 0, 255, name="image"),
}
ACTIONS = 6
SEED_COUNT = 8  # of `epoch_seeds`
_EPISODE = 37  # steps of an episode in the made-up experience: a few borders in every batch
_PICTURES = 16  # drawn side by side
_WORLDS, _CONTROL_STEPS = 256, 50  # of a 2-D world, side by side and one after another


class Piece(NamedTuple):
    """One function that is timed.

    ``advance`` makes the next call's arguments of a call's result, for functions that are given their own state back.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    steps: int | None = None  # env steps of one call, or replayed or imagined ones
    method: Callable[..., Any] | None = None  # what has all products that the method asks for, and no other
    flops: int | None = None  # of one call's products, where they are not those of one function
    donate: tuple[int, ...] = ()
    advance: Callable[[tuple[Any, ...], Any], tuple[Any, ...]] | None = None

    def operations(self) -> int | None:
        """Return the floating-point operations of one call's products; None where nobody counted them."""
        return self.flops if self.method is None else count(self.method, *self.args)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The shapes everything is timed at."""

    config: Config[DreamerConfig]
    obs: Obs = "vector"  # of the pieces that need no environment

    @property
    def dreamer(self) -> Dreamer:
        """The agent, for made-up observations and actions."""
        return make_dreamer(self.config.agent, self.obs)


def experience(dreamer: Dreamer, steps: int, batch: int) -> Sequence:
    """Return noise in the form of experience, ``[T + 1, B]``, with borders of episodes in it."""
    rng, lead = np.random.default_rng(0), (steps + 1, batch)
    time = np.arange(steps + 1)[:, None] + 5 * np.arange(batch)[None]
    last = time % _EPISODE == _EPISODE - 1
    step_type = jnp.asarray(np.select([time % _EPISODE == 0, last], [FIRST, LAST], MID), jnp.int32)
    # Every other environment's episodes end by termination, the others are cut off.
    discount = jnp.asarray(1.0 - last * (np.arange(batch) % 2 == 0), jnp.float32)
    if dreamer.model.senses.images:
        observation = jnp.asarray(rng.integers(0, 256, (*lead, *SEEN["image"].shape), np.uint8))
    else:
        observation = jnp.asarray(rng.normal(size=(*lead, *SEEN["vector"].shape)), jnp.float32)
    reward = jnp.asarray(rng.normal(size=lead), jnp.float32)
    action = jnp.asarray(rng.uniform(-1, 1, size=(*lead, ACTIONS)), jnp.float32)
    context = jax.tree.map(lambda x: jnp.zeros((*lead, *x.shape[1:]), x.dtype), dreamer.model.pack(
        dreamer.model.initial(1)))
    return Sequence(TimeStep(step_type, reward, discount, observation), action, context)


def make_dreamer(config: DreamerConfig, obs: Obs = "vector") -> Dreamer:
    """Return the agent for made-up observations and actions."""
    action = specs.BoundedArray((ACTIONS,), np.float32, -1.0, 1.0, name="action")
    return Dreamer(config, SEEN[obs], action)


def _like(dreamer: Dreamer, config: DreamerConfig) -> Dreamer:
    """Return an agent of another config that sees what this one sees."""
    return make_dreamer(config, "image" if dreamer.model.senses.images else "vector")


def _gradient(dreamer: Dreamer, gradient: Any) -> Dreamer:
    """Return the agent with another gradient of the actor."""
    config = dreamer.config
    behaviour = dataclasses.replace(config.behaviour, gradient=gradient)
    return _like(dreamer, dataclasses.replace(config, behaviour=behaviour))


def _plain(dreamer: Dreamer) -> Dreamer:
    """Return the agent without recomputation, whose operations are those that the method itself asks for."""
    return _like(dreamer, _stored(dreamer.config))


def _stored(config: DreamerConfig) -> DreamerConfig:
    """Return the config of an agent that stores what its backward pass needs."""
    return dataclasses.replace(config, worldmodel=dataclasses.replace(config.worldmodel, remat=False))


def train_step(setting: Setting, gradient: str = "reinforce") -> Piece:
    """One update of model, actor and critic; with DreamerV3's gradient of the actor, REINFORCE, unless said else."""
    dreamer, replay = _gradient(setting.dreamer, gradient), setting.config.replay
    state = jax.jit(dreamer.init)(jax.random.key(0))
    sequence = experience(dreamer, replay.batch_length, replay.batch_size)
    args = (state, jax.random.key(1), sequence)
    steps = replay.batch_length * replay.batch_size
    method = _plain(dreamer).update
    return Piece(dreamer.update, args, steps, method, advance=lambda args, out: (out.state, *args[1:]))


def naive_step(setting: Setting) -> Piece:
    """The same update, written plainly."""
    dreamer, replay = _gradient(setting.dreamer, "reinforce"), setting.config.replay
    naive = Naive(dreamer)
    state = jax.jit(naive.init)(jax.random.key(0))
    args = (state, jax.random.key(1), experience(dreamer, replay.batch_length, replay.batch_size))
    return Piece(naive.update, args, advance=lambda args, out: (out[0], *args[1:]))


def stored_step(setting: Setting) -> Piece:
    """One update with the dynamics' gradient that stores what its backward pass needs instead of recomputing it."""
    config = dataclasses.replace(setting.config, agent=_stored(setting.config.agent))
    return train_step(dataclasses.replace(setting, config=config), "dynamics")


def model_step(setting: Setting) -> Piece:
    """The world model's losses and their gradient."""
    dreamer, replay = setting.dreamer, setting.config.replay
    params = jax.jit(dreamer.init)(jax.random.key(0)).params["model"]
    sequence = experience(dreamer, replay.batch_length, replay.batch_size)
    gradient = jax.grad(lambda params, key, sequence: dreamer.model.loss(params, key, sequence)[0])
    args = (params, jax.random.key(1), sequence)
    plain = _plain(dreamer).model
    method = jax.grad(lambda params, key, sequence: plain.loss(params, key, sequence)[0])
    return Piece(gradient, args, replay.batch_length * replay.batch_size, method)


def imagination(setting: Setting) -> Piece:
    """A dream of the policy from every state of a batch, with rewards, discounts, values and returns."""
    dreamer, replay = setting.dreamer, setting.config.replay
    params = jax.jit(dreamer.init)(jax.random.key(0)).params
    starts = replay.batch_length * replay.batch_size
    dream = lambda params, key: dreamer.behaviour.imagine(
        params["model"], params, key, dreamer.model.initial(starts))
    args = (params, jax.random.key(1))
    return Piece(dream, args, starts * dreamer.config.behaviour.horizon, dream)


def policy_step(setting: Setting, batch: int = 1) -> Piece:
    """Filter one observation and choose an action."""
    dreamer = setting.dreamer
    state = jax.jit(dreamer.init)(jax.random.key(0))
    timestep = jax.tree.map(lambda x: x[0], experience(dreamer, 1, batch).timestep)
    act = lambda state, key, memory, timestep: dreamer.act(state, key, memory, timestep, "train")
    args = (state, jax.random.key(1), dreamer.initial(batch), timestep)
    return Piece(act, args, batch, act)


def collection(setting: Setting) -> Piece:
    """An epoch of acting in the environments and storing it, without learning."""
    config = setting.config
    program = make_program(config)
    state = program.init(jax.random.key(0))
    advance = lambda _, out: (out[0],)
    return Piece(program.prefill, (state,), config.epoch, program.prefill, donate=(0,), advance=advance)


def epoch(setting: Setting) -> Piece:
    """A whole epoch: act, store, learn as often as the train ratio asks for."""
    config = setting.config
    program = make_program(config)
    state = program.init(run_key(config))
    while int(state.step) < config.prefill_epochs * config.epoch * config.env.action_repeat:
        state, _ = program.prefill(state)
    flops = None
    if config.seeds == 1:
        # How often the epoch learns is known to no tracer: the updates are counted apart.
        sequence, _ = jax.eval_shape(program.ring.sample, state.replay, state.key)
        plain = _stored(config.agent)
        agent = make_program(dataclasses.replace(config, agent=plain)).agent
        flops = count(program.prefill, state) + _updates(config) * count(agent.update, state.agent, state.key, sequence)
    steps = config.epoch * config.seeds
    advance = lambda _, out: (out[0],)
    return Piece(program.epoch, (state,), steps, flops=flops, donate=(0,), advance=advance)


def _updates(config: Config) -> int:
    """Return how many updates an epoch does."""
    begin = config.prefill_epochs * config.epoch // config.num_envs
    length = config.epoch // config.num_envs
    return int(updates_due(config, jnp.int32(begin + length)) - updates_due(config, jnp.int32(begin)))


def updates_alone(setting: Setting) -> Piece:
    """The updates of an epoch and nothing else, on one batch, in one loop."""
    config = setting.config
    program = make_program(config)
    state = jax.eval_shape(program.init, jax.random.key(0))
    sequence, _ = jax.eval_shape(program.ring.sample, state.replay, state.key)
    sequence = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sequence)
    agent = jax.jit(program.agent.init)(jax.random.key(0))
    update, times = program.agent.update, _updates(config)

    def learn(agent: Any, key: jax.Array, sequence: Sequence) -> Any:
        one = lambda i, agent: update(agent, jax.random.fold_in(key, i), sequence).state
        return jax.lax.fori_loop(0, times, one, agent)

    args = (agent, jax.random.key(1), sequence)
    return Piece(learn, args, config.epoch, donate=(0,), advance=lambda args, out: (out, *args[1:]))


def epoch_seeds(setting: Setting) -> Piece:
    """An epoch of eight seeds in one program."""
    return epoch(dataclasses.replace(setting, config=dataclasses.replace(setting.config, seeds=SEED_COUNT)))


def evaluation(setting: Setting) -> Piece:
    """Whole episodes of the policy's mode, side by side."""
    config = setting.config
    program = make_program(config)
    episodes = config.evaluation.episodes
    evaluate = make_evaluate(program.agent, make_vector(config.env, episodes), episodes)
    state = jax.jit(program.agent.init)(jax.random.key(0))
    return Piece(evaluate, (state, jax.random.key(1)))


def render(setting: Setting) -> Piece:
    """A picture of 64 by 64 pixels of each of 16 half cheetahs side by side."""
    del setting
    env = make(EnvConfig("brax/halfcheetah@spring"))
    states, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), _PICTURES))
    return Piece(jax.vmap(make_render(env, 64, 64)), (states,), _PICTURES)


def boxes(setting: Setting, world: str) -> Piece:
    """Steps of 256 2-D worlds with random actions, each drawn, with episodes that start over; no agent.

    Of the setting it takes nothing.
    """
    del setting
    env = make_vector(EnvConfig(f"boxes/{world}", time_limit=100), _WORLDS)
    state, _ = jax.jit(env.reset)(jax.random.key(0))

    def run(state: Any, key: jax.Array) -> Any:
        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            action = jax.random.uniform(key, (_WORLDS, *env.action_spec.shape), minval=-1.0)
            state, timestep = env.step(state, action)
            return state, timestep.observation["image"]

        return jax.lax.scan(step, state, jax.random.split(key, _CONTROL_STEPS))

    advance = lambda args, out: (out[0], args[1])
    return Piece(run, (state, jax.random.key(1)), _WORLDS * _CONTROL_STEPS, donate=(0,), advance=advance)


PIECES: dict[str, Callable[[Setting], Piece]] = {
    "train_step": train_step,
    "train_step_dynamics": lambda setting: train_step(setting, "dynamics"),
    "model_step": model_step,
    "imagination": imagination,
    "policy_step": policy_step,
    "policy_step_16": lambda setting: policy_step(setting, 16),
    "collection": collection,
    "epoch": epoch,
    "epoch_seeds": epoch_seeds,
    "evaluation": evaluation,
    "render": render,
    "boxes": lambda setting: boxes(setting, "dropbox"),
    "boxes_urchin": lambda setting: boxes(setting, "urchin"),
}

# What some pieces are timed beside, in turn, and the name it has in their rows.
BESIDE: dict[str, tuple[str, Callable[[Setting], Piece]]] = {
    "train_step": ("naive", naive_step),
    "train_step_dynamics": ("stored", stored_step),
    "epoch": ("updates", updates_alone),
    "epoch_seeds": ("one_seed", epoch),
}
