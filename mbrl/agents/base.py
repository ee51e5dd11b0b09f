"""What an agent is: a handful of pure functions over its own state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxtyping import Array, Float, PyTree

from mbrl.core.types import Metrics, PRNGKey, Sequence, TimeStep
from mbrl.envs.base import Environment
from mbrl.planners.base import Problem

AgentState: TypeAlias = PyTree
Carry: TypeAlias = PyTree
Mode: TypeAlias = Literal["train", "eval", "random"]


class ActOutput(NamedTuple):
    """What acting returns for N environments."""

    action: Float[Array, "N A"]  # in [-1, 1], or one-hot for a discrete space
    carry: Carry  # [N, ...] the agent's memory; reset inside ``act`` wherever a time step is FIRST
    context: PyTree  # [N, ...] what replay stores beside the time step


class UpdateOutput(NamedTuple):
    """What one update returns. ``metrics["update/skipped"]`` is 1 when a loss or gradient was not finite."""

    state: AgentState
    context: PyTree  # [T, B, ...] fresh contexts for the sequence just replayed
    metrics: Metrics  # scalars


class Diagnosis(NamedTuple):
    """What a trained agent's model says about a recorded sequence [T, B]; the report is drawn from it.

    ``open_loop_*`` has seen the first ``context`` steps and then only the actions; before that it equals the
    filtered prediction. Rewards and discounts at t are those on arriving at t, as in ``TimeStep``.
    ``imagined_return`` is the policy's own discounted return, imagined from the state at t and bootstrapped by
    the critic; ``value`` is the critic alone.
    """

    observation: dict[str, Array]  # [T, B, ...] predicted by the filter (posterior)
    reward: Float[Array, "T B"]
    discount: Float[Array, "T B"]  # probability of going on, without the agent's own discount
    value: Float[Array, "T B"]
    imagined_return: Float[Array, "T B"]
    open_loop_observation: dict[str, Array]  # [T, B, ...]
    open_loop_reward: Float[Array, "T B"]
    open_loop_discount: Float[Array, "T B"]


class Agent(NamedTuple):
    """Pure functions; all they change is in ``AgentState`` and ``Carry``.

    Attributes:
        init: ``key -> AgentState``.
        initial: ``batch_size -> Carry``.
        act: ``(state, key, carry, timestep [N], mode) -> ActOutput``; ``mode`` is static: "train" samples,
            "eval" takes the policy's mode, "random" (prefill) acts uniformly but remembers as ever.
        update: ``(state, key, sequence [T, B]) -> UpdateOutput``. The first step of the sequence is context.
        diagnose: ``(state, key, sequence [T, B], context) -> Diagnosis``; ``context`` is a static int.
        gamma: the agent's discount per step, with which real returns are compared to imagined ones.
        problem: what a planner searches in, of the parameters in ``AgentState.params``; None if there is no model. Such
            an agent's ``Carry`` has ``latent`` and ``action``.
    """

    init: Callable[[PRNGKey], AgentState]
    initial: Callable[[int], Carry]
    act: Callable[[AgentState, PRNGKey, Carry, TimeStep, Mode], ActOutput]
    update: Callable[[AgentState, PRNGKey, Sequence], UpdateOutput]
    diagnose: Callable[[AgentState, PRNGKey, Sequence, int], Diagnosis]
    gamma: float
    problem: Problem | None = None


class Course(NamedTuple):
    """What the runner asks of an agent that brings its own training loop; counts are env steps."""

    num_envs: int  # N, stepped together
    action_repeat: int  # how many env steps the environment holds each action
    time_limit: int  # after which it truncates an episode
    steps: int  # to train for
    every: int  # how often to hear of the policy
    seed: int  # of every random number


Tell: TypeAlias = Callable[[AgentState, dict[str, float]], None]


class Training(NamedTuple):
    """A training that is ready to run; counts are env steps.

    Attributes:
        told: after how many the policy is told of, each time; the last is the end.
        run: trains, and calls its argument each time with the policy and the loop's own metrics. What that raises
            ends the training.
    """

    told: range
    run: Callable[[Tell], None]


class Guest(NamedTuple):
    """An agent that brings its own training loop: the runner lends it environments, and evaluates and saves its policy.

    Attributes:
        init: ``key -> AgentState``: what its policy needs, no more.
        initial: as an ``Agent``'s.
        act: as an ``Agent``'s.
        prepare: ``(environment, course) -> Training``; raises UserError for a course it cannot run.
    """

    init: Callable[[PRNGKey], AgentState]
    initial: Callable[[int], Carry]
    act: Callable[[AgentState, PRNGKey, Carry, TimeStep, Mode], ActOutput]
    prepare: Callable[[Environment, Course], Training]


# What plays an episode, whoever trained it: ``initial`` and ``act`` are alike.
Player: TypeAlias = Agent | Guest


class AgentEntry(NamedTuple):
    """A registry line: the agent's config class and its constructor.

    ``make(config, observation_spec, action_spec) -> Agent``; ``planners`` are those that the config's field ``planner``
    takes, by name, each as the agent has it where nothing of it is set.
    """

    config: type
    make: Callable[[Any, Any, Any], Agent]
    planners: Mapping[str, Any] = MappingProxyType({})


class GuestEntry(NamedTuple):
    """A registry line of an agent that brings its own training loop.

    ``make(config, observation_spec, action_spec) -> Guest``; ``iteration(config, num_envs, action_repeat)`` returns the
    env steps of one iteration of its loop, by default those of one step of all environments.
    """

    config: type
    make: Callable[[Any, Any, Any], Guest]
    iteration: Callable[[Any, int, int], int] = lambda _, num_envs, action_repeat: num_envs * action_repeat


def leeway(steps: int, iteration: int) -> int:
    """Return how many env steps a guest may train beyond ``steps`` and still have trained for ``steps``.

    It trains in whole iterations, so that may be less than one of them; or a twentieth, as its intervals between
    evaluations are all equally long.
    """
    return max(iteration - 1, steps // 20)
