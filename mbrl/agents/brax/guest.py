"""Brax's SAC, PPO and APG as guests: their training is Brax's own, environments and evaluation are ours."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from dm_env import specs
from jaxtyping import Array, Float

from mbrl.agents.base import ActOutput, Course, Guest, Mode, Tell, Training, leeway
from mbrl.agents.brax import loops
from mbrl.agents.brax.config import APGConfig, BraxConfig, PPOConfig, SACConfig, check, check_course
from mbrl.core.errors import UserError
from mbrl.core.types import Params, PRNGKey, Spec, TimeStep, action_dim
from mbrl.envs.base import Environment
from mbrl.envs.physics import load
from mbrl.envs.to_brax import TrainingEnv

_TRIED = 100  # numbers of tellings that are looked at, at most


class Policy(NamedTuple):
    """What acting needs; D is the length of an observation."""

    mean: Float[Array, "D"]  # of observations; without use where they are not normalised
    std: Float[Array, "D"]
    network: Params


class _Method(NamedTuple):
    """What tells one of Brax's loops from the others; all other settings are arguments of its ``train``."""

    networks: tuple[str, ...]  # settings that are the networks'
    iteration: Callable[[Any, int, int], int]  # its env steps, of the config, the environments and the action repeat
    budget: Callable[[int, int], dict[str, int]]  # of env steps and iterations


def _sac_iteration(_: SACConfig, num_envs: int, action_repeat: int) -> int:
    return num_envs * action_repeat


def _ppo_iteration(config: PPOConfig, _: int, action_repeat: int) -> int:
    return config.batch_size * config.num_minibatches * config.unroll_length * action_repeat


def _apg_iteration(config: APGConfig, num_envs: int, action_repeat: int) -> int:
    return num_envs * (config.horizon_length // action_repeat) * action_repeat


_METHODS = {
    "sac": _Method(
        ("hidden_layer_sizes", "policy_network_layer_norm", "q_network_layer_norm"),
        _sac_iteration,
        lambda steps, _: {"num_timesteps": steps},
    ),
    "ppo": _Method(
        ("policy_hidden_layer_sizes", "value_hidden_layer_sizes"),
        _ppo_iteration,
        lambda steps, _: {"num_timesteps": steps},
    ),
    "apg": _Method(
        ("hidden_layer_sizes", "layer_norm"), _apg_iteration, lambda _, iterations: {"policy_updates": iterations}
    ),
}


def iteration(config: BraxConfig, num_envs: int, action_repeat: int) -> int:
    """Return the env steps of one iteration of Brax's loop, in whole ones of which it trains."""
    return _METHODS[config.name].iteration(config, num_envs, action_repeat)


def make(config: BraxConfig, observation_spec: Spec, action_spec: Spec) -> Guest:
    """Return one of Brax's agents for one task.

    Raises:
        UserError: the config cannot be built, or the task's specs are not supported.
    """
    check(config)
    size, actions = _sizes(config.name, observation_spec, action_spec)
    method = _METHODS[config.name]
    module = load(f"brax.training.agents.{config.name}.networks")
    chosen = {name: getattr(config, name) for name in method.networks}
    factory = functools.partial(getattr(module, f"make_{config.name}_networks"), **chosen)
    statistics = load("brax.training.acme.running_statistics")
    normalise = statistics.normalize if config.normalize_observations else lambda observation, _: observation
    networks = factory(size, actions, preprocess_observations_fn=normalise)
    infer = module.make_inference_fn(networks)

    def init(key: PRNGKey) -> Policy:
        with loops.hushed():
            return Policy(jnp.zeros(size), jnp.ones(size), networks.policy_network.init(key))

    def act(state: Policy, key: PRNGKey, carry: None, timestep: TimeStep, mode: Mode) -> ActOutput:
        observation: Any = timestep.observation
        if mode == "random":
            action = jax.random.uniform(key, (observation.shape[0], actions), minval=-1.0, maxval=1.0)
            return ActOutput(action, carry, ())
        normaliser = statistics.NestedMeanStd(state.mean, state.std)
        with loops.hushed():
            action, _ = infer((normaliser, state.network), deterministic=mode == "eval")(observation, key)
        return ActOutput(action, carry, ())

    return Guest(init, lambda _: None, act, functools.partial(_prepare, config, method, factory))


def _sizes(name: str, observation_spec: Spec, action_spec: Spec) -> tuple[int, int]:
    """Return the lengths of an observation and of an action.

    Raises:
        UserError: observations are no vector, or actions not continuous.
    """
    if isinstance(observation_spec, dict) or len(observation_spec.shape) != 1:
        what = "a dict" if isinstance(observation_spec, dict) else f"an array of shape {observation_spec.shape}"
        raise UserError(f"{name} takes one vector as observation, but this environment's is {what}")
    if isinstance(action_spec, dict | specs.DiscreteArray):
        what = "a dict" if isinstance(action_spec, dict) else f"one of {action_spec.num_values} choices"
        raise UserError(f"{name} takes continuous actions, but this environment's is {what}; dreamer takes both")
    return int(observation_spec.shape[0]), action_dim(action_spec)


def _prepare(
    config: BraxConfig, method: _Method, factory: Callable[..., Any], env: Environment, course: Course
) -> Training:
    """Return a training in whole iterations of Brax's loop, which ends where ``course.steps`` are reached."""
    check_course(config, course)
    before, each = _collected(config, course), iteration(config, course.num_envs, course.action_repeat)
    needed = -(-(course.steps - before) // each)
    most = (course.steps + leeway(course.steps, each) - before) // each
    between = _between(needed, most, max(1, course.every // each))
    stride, times = between * each, -(-needed // between)
    told = range(before + stride, before + times * stride + 1, stride)
    own = {field.name for field in dataclasses.fields(config)} - {"name", *method.networks}
    arguments = {
        "environment": TrainingEnv(env, course.num_envs, course.action_repeat, course.time_limit),
        "episode_length": course.time_limit,
        "action_repeat": course.action_repeat,
        "num_envs": course.num_envs,
        "num_evals": times + 1,  # Brax's first is of the policy as it was drawn
        "seed": course.seed,
        "network_factory": factory,
        **{name: getattr(config, name) for name in own},
        **method.budget(told[-1], times * between),
    }

    def run(tell: Tell) -> None:
        calls = itertools.count()

        def hear(heard: loops.Heard, metrics: dict[str, float]) -> None:
            if next(calls):
                tell(Policy(*heard), metrics)

        loops.run(config.name, arguments, hear)

    return Training(told, run)


def _collected(config: BraxConfig, course: Course) -> int:
    """Return the env steps before the first update."""
    if not isinstance(config, SACConfig):
        return 0
    return -(-config.min_replay_size // course.num_envs) * course.num_envs * course.action_repeat


def _between(needed: int, most: int, longest: int) -> int:
    """Return how many iterations lie between two tellings, of which Brax makes all alike.

    They divide what is needed as evenly as up to twice as many tellings as there must be let them, or even more of them
    where the last would otherwise come too late.

    Args:
        needed: iterations there are at least.
        most: iterations there may be, no fewer.
        longest: iterations that may lie between two tellings.
    """
    fewest = -(-needed // longest)
    even = [-(-needed // times) for times in range(fewest, fewest + min(fewest, _TRIED) + 1)]
    over = lambda between: -needed % between
    return next(between for between in range(min(even, key=over), 0, -1) if needed + over(between) <= most)
