"""The hyperparameters of Brax's agents, by Brax's names and with Brax's defaults, and what is asked of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

from mbrl.agents.base import Course
from mbrl.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Soft actor-critic, trained by Brax."""

    name: str = "sac"
    """The agent, for short `--agent`; see `mbrl list agents`."""
    learning_rate: float = 1e-4
    """Of actor and critics; that of the temperature is Brax's own."""
    discounting: float = 0.9
    """Discount per agent step."""
    batch_size: int = 256
    """Transitions of a batch."""
    normalize_observations: bool = False
    """Normalise observations by their running mean and deviation."""
    reward_scaling: float = 1.0
    """Factor on rewards while learning."""
    tau: float = 0.005
    """How far the target critics follow in each update."""
    min_replay_size: int = 0
    """Transitions collected before learning begins, by the policy as it is drawn."""
    max_replay_size: int | None = None
    """Transitions the replay holds; `null` for all of the run."""
    grad_updates_per_step: int = 1
    """Updates per step of all environments."""
    hidden_layer_sizes: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of policy and critics."""
    policy_network_layer_norm: bool = False
    """Layer normalisation in the policy."""
    q_network_layer_norm: bool = False
    """Layer normalisation in the critics."""


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation, trained by Brax."""

    name: str = "ppo"
    """The agent, for short `--agent`; see `mbrl list agents`."""
    learning_rate: float = 1e-4
    """Of policy and value."""
    entropy_cost: float = 1e-4
    """Weight of the policy's entropy."""
    discounting: float = 0.9
    """Discount per agent step."""
    unroll_length: int = 10
    """Agent steps of each piece of experience."""
    batch_size: int = 32
    """Pieces of a minibatch; times `num_minibatches` it must be a multiple of `num_envs`."""
    num_minibatches: int = 16
    """Minibatches that one collection is cut into."""
    num_updates_per_batch: int = 2
    """Passes over each collection."""
    normalize_observations: bool = False
    """Normalise observations by their running mean and deviation."""
    reward_scaling: float = 1.0
    """Factor on rewards while learning."""
    clipping_epsilon: float = 0.3
    """How far the ratio of new to old probability counts."""
    gae_lambda: float = 0.95
    """Lambda of the generalised advantage estimate."""
    max_grad_norm: float | None = None
    """Largest norm of a gradient; `null` for none."""
    normalize_advantage: bool = True
    """Normalise advantages over each minibatch."""
    vf_loss_coefficient: float = 0.5
    """Weight of the value's loss."""
    policy_hidden_layer_sizes: tuple[int, ...] = (32, 32, 32, 32)
    """Widths of the policy's hidden layers."""
    value_hidden_layer_sizes: tuple[int, ...] = (256, 256, 256, 256, 256)
    """Widths of the value's hidden layers."""


@dataclasses.dataclass(frozen=True)
class APGConfig:
    """Analytic policy gradient, trained by Brax: the gradient of the return flows back through the physics."""

    name: str = "apg"
    """The agent, for short `--agent`; see `mbrl list agents`."""
    horizon_length: int = 32
    """Env steps the gradient flows back through."""
    learning_rate: float = 1e-4
    """Of the policy, at first."""
    adam_b: tuple[float, float] = (0.7, 0.95)
    """Adam's two decay rates."""
    use_schedule: bool = True
    """Let the learning rate decay."""
    schedule_decay: float = 0.997
    """Factor on the learning rate in each update."""
    max_gradient_norm: float = 1e9
    """Largest norm of a gradient."""
    normalize_observations: bool = False
    """Normalise observations by their running mean and deviation."""
    hidden_layer_sizes: tuple[int, ...] = (32, 32, 32, 32)
    """Widths of the policy's hidden layers."""
    layer_norm: bool = True
    """Layer normalisation in the policy."""


BraxConfig: TypeAlias = SACConfig | PPOConfig | APGConfig

_Demand: TypeAlias = tuple[Callable[[Any], bool], str]
_WHOLE: _Demand = (lambda x: x >= 1, "at least 1")
_POSITIVE: _Demand = (lambda x: 0 < x < math.inf, "positive and finite")
_WEIGHT: _Demand = (lambda x: 0 <= x < math.inf, "at least 0 and finite")
_SHARE: _Demand = (lambda x: 0 < x <= 1, "above 0 and at most 1")
_WIDTHS: _Demand = (lambda x: bool(x) and min(x) >= 1, "one width or more, each at least 1")
_DEMANDS: dict[str, _Demand] = {
    "learning_rate": _POSITIVE,
    "discounting": _SHARE,
    "batch_size": _WHOLE,
    "reward_scaling": _POSITIVE,
    "tau": _SHARE,
    "min_replay_size": _WEIGHT,
    "max_replay_size": _WHOLE,
    "grad_updates_per_step": _WHOLE,
    "hidden_layer_sizes": _WIDTHS,
    "entropy_cost": _WEIGHT,
    "unroll_length": _WHOLE,
    "num_minibatches": _WHOLE,
    "num_updates_per_batch": _WHOLE,
    "clipping_epsilon": _POSITIVE,
    "gae_lambda": (lambda x: 0 <= x <= 1, "between 0 and 1"),
    "max_grad_norm": _POSITIVE,
    "vf_loss_coefficient": _WEIGHT,
    "policy_hidden_layer_sizes": _WIDTHS,
    "value_hidden_layer_sizes": _WIDTHS,
    "horizon_length": _WHOLE,
    "adam_b": (lambda x: all(0 <= b < 1 for b in x), "two numbers, each at least 0 and below 1"),
    "schedule_decay": _SHARE,
    "max_gradient_norm": _POSITIVE,
}


def check(config: BraxConfig) -> None:
    """Check every number by itself.

    Raises:
        UserError: one is out of its range.
    """
    for name, (holds, demand) in _DEMANDS.items():
        value = getattr(config, name, None)
        if value is not None and not holds(value):
            raise UserError(f"agent.{name} must be {demand}, not {value}")


def check_course(config: BraxConfig, course: Course) -> None:
    """Check the numbers against what the runner asks.

    Raises:
        UserError: they do not go together; the sentence says what would.
    """
    if course.num_envs < 1:
        raise UserError(f"num_envs must be at least 1, not {course.num_envs}")
    if isinstance(config, SACConfig):
        _check_replay(config, course)
    elif isinstance(config, PPOConfig) and config.batch_size * config.num_minibatches % course.num_envs:
        raise UserError(
            f"agent.batch_size {config.batch_size} times agent.num_minibatches {config.num_minibatches} is "
            f"{config.batch_size * config.num_minibatches}, but must be a multiple of num_envs {course.num_envs}"
        )
    elif isinstance(config, APGConfig) and config.horizon_length < course.action_repeat:
        raise UserError(
            f"agent.horizon_length {config.horizon_length} must be at least env.action_repeat {course.action_repeat}"
        )


def _check_replay(config: SACConfig, course: Course) -> None:
    """Check that the replay takes a step of all environments and what is collected before learning begins."""
    least = max(config.min_replay_size, course.num_envs)
    if config.max_replay_size is not None and config.max_replay_size < least:
        raise UserError(
            f"agent.max_replay_size {config.max_replay_size} must be at least agent.min_replay_size "
            f"{config.min_replay_size} and num_envs {course.num_envs}"
        )
    collected = -(-config.min_replay_size // course.num_envs) * course.num_envs * course.action_repeat
    if collected >= course.steps:
        raise UserError(
            f"agent.min_replay_size {config.min_replay_size} takes {collected} env steps, which leaves none of steps "
            f"{course.steps} to learn in; raise steps"
        )
