"""A run's policy as one pure function of arrays under names: what is exported, served and handed to PyTorch alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jax import export
from jaxtyping import Array, Bool, Float, PyTree

from mbrl.agents.base import Mode, Player
from mbrl.agents.planning import with_planner
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, MID, Observation, PRNGKey, Spec, TimeStep, to_env_action
from mbrl.envs import make_vector, own_action
from mbrl.envs.wrappers import rescale
from mbrl.runner import pictures, seeds
from mbrl.runner.restore import Loaded
from mbrl.runner.state import TrainState

Named: TypeAlias = dict[str, Array]


class Seen(NamedTuple):
    """What a policy is told of N environments; reward and discount are those of the transition that led here."""

    observation: Observation  # [N, ...]
    reward: Float[Array, "N"]
    discount: Float[Array, "N"]
    first: Bool[Array, "N"]  # an episode begins: all that was remembered of this row is forgotten


Step: TypeAlias = Callable[[Named, Named, Seen, PRNGKey], tuple[Array, Named]]


class Policy(NamedTuple):
    """A filter and what chooses, with all that another program has to know of them.

    Attributes:
        step: ``(parameters, carry, seen [N], key) -> (action, carry)``; pure. The action ``[N, ...]`` is in the
            environment's own units, an index where it is discrete. One key serves all N.
        parameters: the arrays that ``step`` needs of the agent's state, no more.
        initial: ``N -> carry``, ``[N, ...]``; any other will do as well where every row is ``first``.
        observation_spec: of one environment.
        action_spec: of one environment, in its own units.
        task: the environment's name, its action repeat, the seconds of a step (None where it does not say).
        maker: the agent's name, the planner's (None for the policy), the mode, the env steps of the save.
    """

    step: Step
    parameters: Named
    initial: Callable[[Any], Named]
    observation_spec: Spec
    action_spec: specs.Array
    task: dict[str, Any]
    maker: dict[str, Any]


def make_policy(run: Loaded, planner: Any = None, mode: Mode = "eval", member: int = 0) -> Policy:
    """Return the policy of a run.

    The environment itself, which may well live in Python, is no part of it.

    Args:
        run: from ``mbrl.runner.restore.load``.
        planner: the config of a planner that acts instead of the actor; see ``PLANNERS``.
        mode: "eval" takes the policy's mode, "train" samples from it.
        member: of a run of several seeds, which one, counted from 0.

    Raises:
        UserError: the planner cannot work with the agent, or is to explore, or there is no such member.
    """
    if planner is not None and mode == "train":
        raise UserError("--mode train is how the run's own agent explores, whose place --planner takes; leave out one")
    if not 0 <= member < run.config.seeds:
        raise UserError(f"--member is {member}, but the run has {run.config.seeds} seeds, counted from 0")
    agent: Player = run.program.agent if planner is None else with_planner(run.program.agent, planner)
    state = run.state if not isinstance(run.state, TrainState) else seeds.pick(run.config, run.state, member)
    env, repeat = make_vector(run.config.env, 1), run.config.env.action_repeat
    seconds = pictures.seconds(pictures.innermost(env))
    task = {
        "environment": run.config.env.name,
        "action_repeat": repeat,
        "seconds_of_a_step": None if seconds is None else seconds * repeat,
    }
    maker = {
        "agent": run.config.agent.name,
        "planner": None if planner is None else planner.name,
        "mode": mode,
        "env_steps": int(np.max(run.state.step)),
    }
    policy = from_agent(agent, state.agent, env.observation_spec, own_action(run.config.env), mode)
    return policy._replace(task=task, maker=maker)


def from_agent(
    agent: Player, state: Any, observation_spec: Spec, action_spec: specs.Array, mode: Mode = "eval"
) -> Policy:
    """Return the policy of an agent in a state, without a task and a maker.

    Args:
        agent: filters and chooses.
        state: an ``AgentState``.
        observation_spec: of one environment.
        action_spec: of one environment, in its own units.
        mode: see ``Agent``.
    """
    names = _names(jax.eval_shape(lambda: agent.initial(1)))
    policy = Policy(
        step=_step(agent, state, action_spec, mode),
        parameters=dict(zip(_names(state), jax.tree.leaves(state), strict=True)),
        initial=lambda rows: dict(zip(names, jax.tree.leaves(agent.initial(rows)), strict=True)),
        observation_spec=observation_spec,
        action_spec=action_spec,
        task={},
        maker={},
    )
    return policy._replace(parameters=_needed(policy))


def seen_like(spec: Spec, rows: Any) -> Seen:
    """Return the shapes of what a policy is told of ``rows`` environments; ``rows`` may be symbolic."""
    shape = lambda *rest: (rows, *rest)
    observation = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(shape(*leaf.shape), leaf.dtype), spec)
    number = jax.ShapeDtypeStruct(shape(), jnp.float32)
    return Seen._make((observation, number, number, jax.ShapeDtypeStruct(shape(), jnp.bool_)))


def carry_like(policy: Policy, rows: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the carry of ``rows`` environments; ``rows`` may be symbolic."""
    one = jax.eval_shape(lambda: policy.initial(1))
    return {name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype) for name, leaf in one.items()}


def shapes(tree: PyTree) -> PyTree:
    """Return the shapes of a tree's arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _step(agent: Player, state: Any, action_spec: specs.Array, mode: Mode) -> Step:
    state_tree, likes = jax.tree.structure(state), jax.tree.leaves(shapes(state))
    carry_tree = jax.tree.structure(jax.eval_shape(lambda: agent.initial(1)))
    state_names, carry_names = _names(state), _names(jax.eval_shape(lambda: agent.initial(1)))

    def step(parameters: Named, carry: Named, seen: Seen, key: PRNGKey) -> tuple[Array, Named]:
        # What the policy does not need was left out; it is not looked at, so zeros stand for it until they are dropped.
        leaves = [parameters[name] if name in parameters else jnp.zeros(like.shape, like.dtype)
                  for name, like in zip(state_names, likes, strict=True)]
        whole = jax.tree.unflatten(state_tree, leaves)
        memory = jax.tree.unflatten(carry_tree, [carry[name] for name in carry_names])
        step_type = jnp.where(seen.first, FIRST, MID).astype(jnp.int32)
        timestep = TimeStep(step_type, seen.reward, seen.discount, seen.observation)
        output = agent.act(whole, key, memory, timestep, mode)
        following = dict(zip(carry_names, jax.tree.leaves(output.carry), strict=True))
        return _own_units(action_spec, output.action), following

    return step


def _own_units(spec: Any, action: Float[Array, "*N A"]) -> Array:
    """Return an agent's action, in [-1, 1] or one-hot, in the environment's units or as an index."""
    taken = to_env_action(spec, action)
    return taken if isinstance(spec, specs.DiscreteArray) else rescale(spec, taken)


def _needed(policy: Policy) -> Named:
    """Return the parameters without those that have no say in an action: critics, optimisers, decoders."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = export.export(jax.jit(policy.step))(
        shapes(policy.parameters), carry_like(policy, 1), seen_like(policy.observation_spec, 1), key)
    kept = set(lowered.module_kept_var_idx)
    # A dict is flattened in the order of its sorted names, parameters before all else.
    return {name: policy.parameters[name] for number, name in enumerate(sorted(policy.parameters)) if number in kept}


def _names(tree: PyTree) -> list[str]:
    """Return a name for each leaf: where it lies in the tree."""
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
