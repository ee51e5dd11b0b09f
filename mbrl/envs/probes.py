"""Environments that only a correct agent solves: each fails when the one part it probes is broken.

All are tiny. Actions are ``[1]`` in [-1, 1] (clipped) but for ``Discrete``; the last entry of an observation is the
share of the episode that has passed; an episode ends by termination after ``length`` steps at the latest.
``optimal_return`` and ``random_return`` are expected undiscounted returns, of the best policy and of uniform actions.
"""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array, Bool, Float, Int, UInt8

from mbrl.core.errors import UserError
from mbrl.core.types import LAST, MID, Observation, PRNGKey, Spec, TimeStep, restart


class ProbeState(NamedTuple):
    """All there is to know about a probe; the agent sees less."""

    time: Int[Array, ""]  # steps since FIRST
    context: Float[Array, ""]  # what the right action depends on
    owed: Float[Array, ""]  # a reward earned but not yet paid
    key: PRNGKey


class Probe(abc.ABC):
    """What the probes share; each says what is seen and what an action brings.

    Attributes:
        length: steps of an episode, at most.
        redraws: whether the context is drawn anew in every step rather than once per episode.
    """

    length: int = 10
    redraws: ClassVar[bool] = False
    seen: ClassVar[int] = 1  # entries of an observation before the time
    optimal_return: float
    random_return: float

    @property
    def observation_spec(self) -> Spec:
        """A float32 vector."""
        return specs.Array((self.seen + 1,), np.float32, name="observation")

    @property
    def action_spec(self) -> specs.Array:
        """``[1]`` in [-1, 1]."""
        return specs.BoundedArray((1,), np.float32, -1.0, 1.0, name="action")

    def reset(self, key: PRNGKey) -> tuple[ProbeState, TimeStep]:
        """Start an episode."""
        key, draw = jax.random.split(key)
        state = ProbeState(jnp.int32(0), self.draw(draw), jnp.float32(0), key)
        return state, restart(self.observe(state))

    def step(self, state: ProbeState, action: Array) -> tuple[ProbeState, TimeStep]:
        """Take one step."""
        key, draw = jax.random.split(state.key)
        reward, owed, goes_on = self.outcome(state, action)
        context = self.draw(draw) if self.redraws else state.context
        state = ProbeState(state.time + 1, context, owed, key)
        goes_on &= state.time < self.length
        step_type = jnp.where(goes_on, MID, LAST).astype(jnp.int32)
        return state, TimeStep(step_type, reward, goes_on.astype(jnp.float32), self.observe(state))

    def observe(self, state: ProbeState) -> Observation:
        """Return what is seen, and the time."""
        return jnp.append(self.look(state), state.time / self.length).astype(jnp.float32)

    def draw(self, key: PRNGKey) -> Float[Array, ""]:
        """Draw a context: -1 or 1."""
        return jax.random.rademacher(key, (), jnp.float32)

    def look(self, state: ProbeState) -> Float[Array, "seen"]:
        """Return what is seen, without the time: the context."""
        return state.context[None]

    @abc.abstractmethod
    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """Return the reward, what is owed from now on, and whether the episode goes on."""

    def best(self, state: ProbeState) -> Array:
        """Return the best action."""
        return state.context[None]


def _push(action: Array) -> Float[Array, ""]:
    """Return the one number an action says."""
    return jnp.clip(action[0], -1.0, 1.0)


class Reward(Probe):
    """1 in every step, whatever is seen or done.

    Optimal return 10, random 10. The value after t of 10 steps is 10 - t before discounting: the reward, discount and
    value heads must reach their scale and the critic must count the steps left; acting needs nothing.
    """

    optimal_return = 10.0
    random_return = 10.0
    seen = 0

    def look(self, state: ProbeState) -> Float[Array, "seen"]:
        """Nothing but the time is seen."""
        del state
        return jnp.zeros(0)

    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """1, always."""
        del action
        return jnp.float32(1), state.owed, jnp.bool_(True)


class Action(Probe):
    """The action times the sign that is seen, at once; a new sign in every step.

    Optimal return 10, random 0. The reward model must depend on action and observation, and the actor must follow it.
    Neither value nor memory is needed.
    """

    optimal_return = 10.0
    random_return = 0.0
    redraws = True

    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """Sign times action."""
        return state.context * _push(action), state.owed, jnp.bool_(True)


class Sight(Action):
    """The action times the sign that a picture shows: 1 for a lying bar of two pixels, -1 for a standing one.

    Optimal return 10, random 0. The bar fills a row, or a column, of the 2 x 2 pixels in the middle of 8 x 8, anew in
    every step. Each of these is as bright for one sign as for the other: only its neighbours tell, and nothing else is
    seen.
    """

    side: ClassVar[int] = 8
    bar: ClassVar[int] = 2

    @property
    def observation_spec(self) -> specs.Array:
        """A binary image."""
        return specs.BoundedArray((self.side, self.side, 1), np.uint8, 0, 1, name="image")

    def draw(self, key: PRNGKey) -> Float[Array, ""]:
        """Draw a bar: its row or column, counted from 1, with the sign of how it lies."""
        key, sign_key = jax.random.split(key)
        line = jax.random.randint(key, (), 1, self.bar + 1)
        return jax.random.rademacher(sign_key, (), jnp.float32) * line

    def observe(self, state: ProbeState) -> UInt8[Array, "H W 1"]:
        """Return the picture."""
        pixels = jnp.arange(self.side) - (self.side - self.bar) // 2
        lying = (pixels == jnp.abs(state.context) - 1)[:, None] & ((pixels >= 0) & (pixels < self.bar))[None]
        return jnp.where(state.context > 0, lying, lying.T)[..., None].astype(jnp.uint8)

    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """Sign times action."""
        return super().outcome(state._replace(context=jnp.sign(state.context)), action)

    def best(self, state: ProbeState) -> Array:
        """The sign."""
        return jnp.sign(state.context)[None]


class Delayed(Probe):
    """Only the first action counts, times the sign seen with it; it is paid ``delay`` steps later, at the end.

    Optimal return 1, random 0. What is owed is seen all along, so no memory is needed; but when the delay is longer
    than the imagination horizon, the first action learns from the critic's bootstrapped value alone.

    Args:
        delay: steps from the action to its reward; the default is just beyond the usual horizon of 15.

    Raises:
        UserError: when ``delay`` is below 1.
    """

    optimal_return = 1.0
    random_return = 0.0
    seen = 2

    def __init__(self, delay: int = 16) -> None:
        if delay < 1:
            raise UserError(f"the delay of probe/delayed is {delay}, but must be at least 1")
        self.length = delay

    def look(self, state: ProbeState) -> Float[Array, "seen"]:
        """The sign at FIRST, and what is owed."""
        return jnp.stack([jnp.where(state.time == 0, state.context, 0.0), state.owed])

    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """Nothing until the last step, which pays the debt."""
        owed = jnp.where(state.time == 0, state.context * _push(action), state.owed)
        return jnp.where(state.time == self.length - 1, owed, 0.0), owed, jnp.bool_(True)


def delayed(steps: str = "16") -> Delayed:
    """Return ``Delayed`` with the delay that stands behind the @ of ``probe/delayed@20``.

    Raises:
        UserError: when that is no whole number above 0.
    """
    if not steps.isdecimal():
        raise UserError(f"the delay of probe/delayed is {steps!r}, but must be a whole number")
    return Delayed(int(steps))


class Cue(Probe):
    """A sign is seen at FIRST alone; every action is paid times that sign.

    Optimal return 8, random 0, and 1 for whoever acts on what is seen alone. The latent state must carry the sign over
    all steps, which gradients must reach back through; the first action, paid while the sign is in sight, shows what
    it is good for.
    """

    optimal_return = 8.0
    random_return = 0.0
    length = 8

    def look(self, state: ProbeState) -> Float[Array, "seen"]:
        """The sign at FIRST."""
        return jnp.where(state.time == 0, state.context, 0.0)[None]

    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """Sign times action."""
        return state.context * _push(action), state.owed, jnp.bool_(True)


class Terminal(Probe):
    """A positive action brings 1 and ends the episode; any other brings 0.5 and goes on.

    Optimal return 5.5 (wait nine steps, then take), random 1.5 (1 - 2^-10). Without the discount head, taking looks
    like 1 for ever; whoever believes that earns 1.
    """

    optimal_return = 5.5
    random_return = 1.5 * (1 - 2.0**-10)
    seen = 0

    def look(self, state: ProbeState) -> Float[Array, "seen"]:
        """Nothing but the time is seen."""
        del state
        return jnp.zeros(0)

    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """1 and the end for taking, or 0.5."""
        takes = action[0] > 0
        return jnp.where(takes, jnp.float32(1), jnp.float32(0.5)), state.owed, ~takes

    def best(self, state: ProbeState) -> Array:
        """Take in the last step only."""
        return jnp.where(state.time == self.length - 1, 1.0, -1.0)[None]


class Tasks(Action):
    """The action times the sign of the task, one of four for an episode; only an integer ``task`` tells which is on.

    Optimal return 10, random 0. The signs are 1, -1, -1, 1: no number that grows with the task's says them, so that
    tasks have to be told apart, and whoever is blind to ``task`` earns nothing.
    """

    redraws = False
    seen = 0
    signs: ClassVar[tuple[float, ...]] = (1.0, -1.0, -1.0, 1.0)

    @property
    def observation_spec(self) -> dict[str, specs.Array]:
        """The time, and the task."""
        task = specs.DiscreteArray(len(self.signs), np.int32, name="task")
        return {"time": specs.Array((1,), np.float32, name="time"), "task": task}

    def draw(self, key: PRNGKey) -> Float[Array, ""]:
        """Draw a task."""
        return jax.random.randint(key, (), 0, len(self.signs)).astype(jnp.float32)

    def observe(self, state: ProbeState) -> dict[str, Array]:
        """Return the time and the task."""
        return {"time": (state.time / self.length)[None], "task": state.context.astype(jnp.int32)}

    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """The task's sign times action."""
        return super().outcome(state._replace(context=self.best(state)[0]), action)

    def best(self, state: ProbeState) -> Array:
        """The task's sign."""
        return jnp.asarray(self.signs)[state.context.astype(jnp.int32)][None]


class Exact(Probe):
    """1 - 10 (a - x)^2, with a new target x uniform in [-0.8, 0.8] in every step.

    Optimal return 10, random 10 (1 - 10 (1/3 + 0.8^2 / 3)) = -44.67, and -11.3 for a = 0. Nine of ten needs an error
    of 0.1: the actor must say a number, not just a side, and its spread must not cost it.
    """

    optimal_return = 10.0
    random_return = 10 * (1 - 10 * (1 + 0.64) / 3)
    redraws = True

    def draw(self, key: PRNGKey) -> Float[Array, ""]:
        """Draw a target."""
        return jax.random.uniform(key, (), jnp.float32, -0.8, 0.8)

    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """A parabola around the target."""
        return 1 - 10 * (_push(action) - state.context) ** 2, state.owed, jnp.bool_(True)


class Discrete(Probe):
    """1 for choosing the one of four actions that is seen, one-hot; a new one in every step.

    Optimal return 10, random 2.5. What ``Action`` probes, for a discrete actor.
    """

    optimal_return = 10.0
    random_return = 2.5
    redraws = True
    seen = 4

    @property
    def action_spec(self) -> specs.Array:
        """One of four."""
        return specs.DiscreteArray(4, np.int32, name="action")

    def draw(self, key: PRNGKey) -> Float[Array, ""]:
        """Draw which action is right."""
        return jax.random.randint(key, (), 0, 4).astype(jnp.float32)

    def look(self, state: ProbeState) -> Float[Array, "seen"]:
        """The right action, one-hot."""
        return jax.nn.one_hot(state.context.astype(jnp.int32), 4)

    def outcome(self, state: ProbeState, action: Array) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """Whether the action was right."""
        return (action == state.context).astype(jnp.float32), state.owed, jnp.bool_(True)

    def best(self, state: ProbeState) -> Array:
        """The action that is seen."""
        return state.context.astype(jnp.int32)
