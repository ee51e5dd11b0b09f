"""The planners' door: what a planner searches in, what comes out, and what every planner refuses.

Symbols: s latent, a action, r reward, c probability of going on, gamma discount, v critic, pi policy. Axes: B
environments, K candidates, H horizon, A action, E critics, M nodes side by side.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Any,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from mbrl.core import parallel
from mbrl.core.distributions import OneHot, Squashed, TanhNormal
from mbrl.core.errors import UserError, unknown
from mbrl.core.types import Params, PRNGKey
from mbrl.worldmodels.base import Latent, WorldModel

Proposal: TypeAlias = Squashed | TanhNormal | OneHot
Cost: TypeAlias = Callable[[Latent, Array], Any]
Carry: TypeAlias = PyTree
# The return of a candidate of which the model says nothing finite; float32 can square it.
WORST = -1e18


@dataclasses.dataclass(frozen=True)
class NoPlannerConfig:
    """No planner: the policy acts."""

    name: Literal["none"] = "none"
    """The planner, or `none`; see `mbrl list planners`."""


class Arrival(NamedTuple):
    """What one imagined step leads to."""

    latent: Latent  # [*N, ...]
    reward: Float[Array, "*N"]
    going: Float[Array, "*N"]  # probability that the episode goes on, without the discount


class Problem(NamedTuple):
    """What a planner searches in: plain functions of explicit parameters.

    Attributes:
        step: ``(params, key, latent [B], action [B, A]) -> Arrival [B]``. The same key gives the same noise, so that
            candidates can be compared on common random numbers (all planners but mctx do).
        actions: A.
        discount: gamma per step.
        policy: ``(params, latent [*N]) -> Proposal [*N]``, or None: a guide only.
        value: ``(params, latent [*N]) -> [E, *N]``, what E critics (E may be 1) expect from there on, or None.
        low, high: bounds of every action, or ``[A]`` of each.
        discrete: whether actions are one-hot.
        look: ``(params, latent [*N]) -> {name: [*N, ...]}``, what latents look like, for pictures of a plan, or None.
    """

    step: Callable[[Params, PRNGKey, Latent, Array], Arrival]
    actions: int
    discount: float
    policy: Callable[[Params, Latent], Proposal] | None = None
    value: Callable[[Params, Latent], Array] | None = None
    low: float | Sequence[float] = -1.0
    high: float | Sequence[float] = 1.0
    discrete: bool = False
    look: Callable[[Params, Latent], dict[str, Array]] | None = None


class Plan(NamedTuple):
    """What a planner decided for B environments, and why."""

    action: Float[Array, "B A"]
    candidates: Float[Array, "B K A"]  # first actions that were compared last
    weights: Float[Array, "B K"]  # of the candidates; they sum to 1
    value: Float[Array, "B"]  # what the plan is expected to return
    spread: Float[Array, "B"]  # deviation of the returns that were compared; where one counts alone, of all alike
    sequence: Float[Array, "B H A"] | None  # the actions that follow, the first among them
    fan: Latent | None  # [B, K, H + 1, ...] the latents that each candidate led through
    tree: PyTree  # of planners that grow one
    steps: Int[Array, ""]  # model steps per environment that it cost; a derivative of one counts as one more


@runtime_checkable
class Planner(Protocol):
    """Searches inside a model; knows it as a ``Problem`` alone. Pure, batched over environments, jit-able."""

    @property
    def steps(self) -> int:
        """Model steps of one plan of one environment; a derivative of one, by state and action, counts as one more."""
        ...

    def initial(self, batch_size: int) -> Carry:
        """Return the carry of B environments that nothing was planned for yet."""
        ...

    def plan(self, params: Params, key: PRNGKey, latent: Latent, carry: Carry) -> tuple[Plan, Carry]:
        """Plan from ``latent [B]``; the carry warm-starts the next call, one step later."""
        ...


class Warm(NamedTuple):
    """A plan to begin the next one with: the usual carry."""

    sequence: Float[Array, "B H A"]  # shifted: the first action is the next one to take
    known: Float[Array, "B H"]  # 1 where there is such an action


def cold(batch_size: int, horizon: int, actions: int) -> Warm:
    """Return the carry of environments that nothing was planned for yet."""
    return Warm(jnp.zeros((batch_size, horizon, actions)), jnp.zeros((batch_size, horizon)))


def shifted(sequence: Float[Array, "B H A"], known: Float[Array, "B H"]) -> Warm:
    """Return a plan as it looks one step later; its last step is not known."""
    zero = jnp.zeros_like(sequence[:, :1])
    following = jnp.concatenate([sequence[:, 1:], zero], 1)
    return Warm(following, jnp.concatenate([known[:, 1:], jnp.zeros_like(known[:, :1])], 1))


def from_model(
    model: WorldModel,
    actions: int,
    discount: float,
    policy: Callable[[Params, Latent], Proposal] | None = None,
    value: Callable[[Params, Latent], Array] | None = None,
    discrete: bool = False,
) -> Problem:
    """Return a world model as a ``Problem``; its parameters are ``params["model"]``.

    Args:
        model: any.
        actions: A, as the agent's action vector has them, in [-1, 1] or one-hot.
        discount: gamma, which the model's own discount head does not contain.
        policy: see ``Problem``.
        value: see ``Problem``.
        discrete: see ``Problem``.
    """

    def step(params: Params, key: PRNGKey, latent: Latent, action: Array) -> Arrival:
        dream = model.imagine(params["model"], key, latent, lambda *_: action, 1)
        after = jax.tree.map(lambda x: x[1], dream.latent)
        prediction = model.predict(params["model"], after)
        return Arrival(after, prediction.reward.mean(), prediction.discount.mean())

    def look(params: Params, latent: Latent) -> dict[str, Array]:
        return {name: head.mean() for name, head in model.predict(params["model"], latent).observation.items()}

    return Problem(step, actions, discount, policy, value, discrete=discrete, look=look)


def with_cost(problem: Problem, cost: Cost) -> Problem:
    """Return the problem with a cost of one's own taken off every reward.

    Args:
        problem: any.
        cost: ``(latent, action [A]) -> number`` of one latent that is arrived in, as rewards are, and of the action
            that led there: what must not be entered costs already in the last step that is imagined.

    Raises:
        UserError: when first traced, if it cannot be called so or returns anything but one real number.
    """

    def step(params: Params, key: PRNGKey, latent: Latent, action: Array) -> Arrival:
        arrival = problem.step(params, key, latent, action)
        _check_cost(cost, arrival.latent, action)
        return arrival._replace(reward=arrival.reward - jax.vmap(cost)(arrival.latent, action))

    return problem._replace(step=step)


def _check_cost(cost: Cost, latent: Latent, action: Array) -> None:
    """Raise a UserError if a cost of rows of latents and actions is not one real number each."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (latent, action))
    wanted = "the cost must return one number for one latent and one action; "
    try:
        found = jax.eval_shape(cost, *one)
    except TypeError as error:  # of the call, or of what came back
        raise UserError(f"{wanted}{str(error).splitlines()[0]}") from error
    shape = getattr(found, "shape", None)
    if shape != ():
        what = "something that is no array" if shape is None else f"an array of shape {shape}"
        raise UserError(f"{wanted}it returned {what}")
    if jnp.issubdtype(found.dtype, jnp.complexfloating):
        raise UserError(f"{wanted}it returned one of {found.dtype}")


def check(planner: str, problem: Problem, *needs: str) -> None:
    """Raise a UserError if a planner cannot work on a problem.

    Args:
        planner: its name.
        problem: what it is to search in.
        needs: what it cannot do without: ``"policy"``, ``"value"`` or ``"continuous"`` actions.
    """
    low, high = bounds(problem)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise UserError(
            f"{planner} needs finite action bounds, low below high; they are {_told(low)} and {_told(high)}"
        )
    if not 0 <= problem.discount <= 1:
        raise UserError(f"the discount that {planner} plans with must lie in [0, 1]; got {problem.discount}")
    missing = [name for name in needs if name != "continuous" and getattr(problem, name) is None]
    if missing:
        raise UserError(
            f"{planner} needs a {' and a '.join(missing)}, which this model does not bring; "
            + ("random plans without" if problem.discrete else "random, cem, icem and gradient plan without")
        )
    if "continuous" in needs and problem.discrete:
        raise UserError(f"{planner} needs continuous actions and these are discrete; take mctx, soft_tree or random")


def check_config(planner: str, config: Any, least: Mapping[str, float | int], most: Mapping[str, float | int]) -> None:
    """Raise a UserError for the first field of a config that is not what it may be.

    Args:
        planner: its name.
        config: a dataclass; its fields of words and of whole numbers must hold such.
        least: the smallest value of each number; none may be infinite.
        most: the greatest value of some of them.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise unknown(f"{name} of planner {planner}", str(value), get_args(kind))
        whole = kind is int or (kind == int | None and value is not None)
        if whole and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
            raise UserError(f"planner {planner}: {name} must be a whole number; got {value}")
    for name in least:
        value, low, high = getattr(config, name), least[name], most.get(name, math.inf)
        if not (low <= value <= high and math.isfinite(value)):
            span = f"at least {low}" if high == math.inf else f"between {low} and {high}"
            raise UserError(f"planner {planner}: {name} must be {span}; got {value}")


def bounds(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest action, ``[A]`` each."""
    try:
        low, high = (np.asarray(x, np.float32) for x in (problem.low, problem.high))
    except (TypeError, ValueError) as error:
        raise UserError(f"action bounds must be numbers; they are {problem.low} and {problem.high}") from error
    shape = (problem.actions,)
    if low.shape not in {(), shape} or high.shape not in {(), shape}:
        raise UserError(f"action bounds must be numbers or one for each of {problem.actions} actions")
    return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


def middle(problem: Problem) -> tuple[Float[Array, "A"], Float[Array, "A"]]:
    """Return the middle of the action range and half of its width."""
    low, high = bounds(problem)
    return jnp.asarray((high + low) / 2), jnp.asarray((high - low) / 2)


def into_bounds(problem: Problem, action: Float[Array, "*N A"]) -> Float[Array, "*N A"]:
    """Return actions clipped to the problem's bounds."""
    low, high = bounds(problem)
    lead = (1,) * (action.ndim - 1)
    low, high = (jnp.asarray(x.reshape((*lead, -1)), action.dtype) for x in (low, high))
    return jnp.clip(action, low, high)


def held(problem: Problem, action: Float[Array, "*N A"]) -> Float[Array, "*N A"]:
    """Return actions clipped to the problem's bounds, with the derivative of what was not.

    A clip's own derivative is 0 beyond the bounds, where what drew the action could then never learn to come back.
    """
    return action + jax.lax.stop_gradient(into_bounds(problem, action) - action)


def branch(
    problem: Problem, params: Params, key: PRNGKey, latent: Latent, action: Float[Array, "B M A"]
) -> Arrival:
    """Take one step from each of ``latent [B, M]``; the M of one environment share their noise."""
    step = lambda latent, action: problem.step(params, key, latent, action)
    return jax.vmap(step, in_axes=1, out_axes=1)(latent, action)


def worth(problem: Problem, params: Params, latent: Latent, like: Float[Array, "*N"]) -> Float[Array, "E *N"]:
    """Return what the critics expect from latents on, 0 where there is none."""
    if problem.value is None:
        return jnp.zeros_like(like)[None]
    value = problem.value(params, latent)
    if jnp.ndim(value) != like.ndim + 1 or value.shape[1:] != like.shape:
        raise UserError(
            f"the value must be [E, {', '.join(map(str, like.shape))}], of E critics, for so many latents; it is "
            f"{list(jnp.shape(value))}"
        )
    return value


def proposed(problem: Problem, params: Params, latent: Latent) -> Proposal:
    """Return the policy in latents; raises UserError for what is no distribution of actions."""
    assert problem.policy is not None
    policy = problem.policy(params, latent)
    if not isinstance(policy, Squashed | TanhNormal | OneHot):
        raise UserError(f"the policy must return a Squashed, a TanhNormal or a OneHot; it is {type(policy).__name__}")
    return policy


def believed(returns: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Return returns with those that are not finite, where a model ran away, as worse than what any task pays.

    A comparison with NaN never is true and a sort has it first: one bad candidate would be the plan.
    """
    return jnp.where(jnp.isfinite(returns), returns, WORST)


def finite(*trees: Any, rows: int) -> Bool[Array, "*N"]:
    """Return where all numbers of arrays ``[*N, ...]`` are finite, N being their first ``rows`` axes."""
    each = [jnp.isfinite(x).all(tuple(range(rows, x.ndim))) for x in jax.tree.leaves(trees)]
    return functools.reduce(jnp.logical_and, each)


def chosen(known: Bool[Array, "*N"], new: Any, old: Any) -> Any:
    """Return arrays ``[*N, ...]``, the new ones where ``known``, else the old ones."""
    wide = lambda x: known.reshape(known.shape + (1,) * (x.ndim - known.ndim))
    return jax.tree.map(lambda x, y: jnp.where(wide(x), x, y), new, old)


def tiled(latent: Latent, count: int) -> Latent:
    """Return ``[B, count, ...]`` of ``[B, ...]``."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], count, *x.shape[1:])), latent)


def batch_of(latent: Latent) -> int:
    """Return B."""
    return jax.tree.leaves(latent)[0].shape[0]


def normal(key: PRNGKey, shape: tuple[int, ...]) -> Array:
    """Draw standard normal noise; the first axis is the environments'."""
    return parallel.draw(jax.random.normal, key, shape, axis=0)


def take(tree: Any, where: Int[Array, "B M"]) -> Any:
    """Return entries ``[B, M, ...]`` of arrays ``[B, N, ...]``."""
    return jax.tree.map(lambda x: jax.vmap(lambda row, at: row[at])(x, where), tree)


def moments(values: Float[Array, "B K"], weights: Float[Array, "B K"]) -> tuple[Array, Array]:
    """Return mean and deviation of values under weights, ``[B]`` each."""
    mean = (weights * values).sum(1)
    variance = (weights * jnp.square(values - mean[:, None])).sum(1)
    # Where one value counts alone the root has no slope; there the deviation is a constant.
    varied = variance > 0
    return mean, jnp.where(varied, jnp.sqrt(jnp.where(varied, variance, 1.0)), 0.0)


def _told(bound: np.ndarray) -> str:
    return f"{float(bound[0])}" if (bound == bound[0]).all() else str([float(x) for x in bound])
