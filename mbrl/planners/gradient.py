"""Gradient trajectory optimisation: Adam on action sequences, through the model, from several starts.

As in Parmas et al. 2018 and Bharadhwaj et al. 2020, without the sampling around it. The best sequence met on the way is
the plan, so that more steps never make it worse.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mbrl.core.types import Params, PRNGKey
from mbrl.planners.base import (
    Plan,
    Problem,
    Warm,
    batch_of,
    believed,
    check,
    check_config,
    cold,
    held,
    into_bounds,
    middle,
    moments,
    normal,
    shifted,
    take,
)
from mbrl.planners.shooting import roll
from mbrl.worldmodels.base import Latent


@dataclasses.dataclass(frozen=True)
class GradientConfig:
    """Gradient ascent on action sequences."""

    name: str = "gradient"
    """The planner."""
    starts: int = 4
    """K, sequences that are improved side by side; the plan before is one of them."""
    horizon: int = 5
    """H, model steps of each; beyond them the value counts, where there is one."""
    iterations: int = 15
    """Gradient steps."""
    rate: float = 0.1
    """Adam's rate, in halves of the action range."""
    std: float = 0.5
    """Deviation of the starts, in halves of the action range."""
    noise: float = 0.0
    """Deviation of normal noise added to the action, to explore, in halves of the action range."""


class GradientPlanner:
    """A ``Planner``."""

    def __init__(self, config: GradientConfig, problem: Problem) -> None:
        """Describe the search.

        Raises:
            UserError: for discrete actions, or numbers out of range.
        """
        check("gradient", problem, "continuous")
        least = {"starts": 1, "horizon": 1, "iterations": 1, "rate": 0, "std": 0, "noise": 0}
        check_config("gradient", config, least, {"starts": 4096, "horizon": 1000, "iterations": 10_000})
        self.config, self.problem = config, problem
        self.centre, self.half = middle(problem)

    @property
    def steps(self) -> int:
        """Model steps of one plan; a derivative of one, by state and action alone, costs as much as the step."""
        return 2 * self.config.starts * self.config.horizon * (self.config.iterations + 1)

    def initial(self, batch_size: int) -> Warm:
        """Return the carry of environments that nothing was planned for."""
        return cold(batch_size, self.config.horizon, self.problem.actions)

    def plan(self, params: Params, key: PRNGKey, latent: Latent, carry: Warm) -> tuple[Plan, Warm]:
        """Search from ``latent [B]`` (see ``Planner``)."""
        model_key, start_key = jax.random.split(key)
        keys = jax.random.split(model_key, self.config.horizon)
        unit = self._starts(start_key, batch_of(latent), carry)
        # Rounding may put an end of the range a hair beyond it, where a clip's derivative is 0 for ever.
        actions = lambda unit: held(self.problem, self._real(unit))
        adam = optax.adam(self.config.rate)

        def look(unit: Array) -> tuple[Array, Array]:
            returns, back = jax.vjp(lambda unit: roll(self.problem, params, keys, latent, actions(unit))[0], unit)
            slope = back(jnp.ones_like(returns))[0]
            return believed(returns), jnp.where(jnp.isfinite(slope), slope, 0.0)

        def body(at: tuple, _: None) -> tuple[tuple, None]:
            unit, slope, state, best, top = at
            change, state = adam.update(-slope, state)
            unit = jnp.clip(unit + change, -1.0, 1.0)  # so that the slope does not vanish beyond the bounds
            returns, slope = look(unit)
            better = returns > top
            best = jnp.where(better[..., None, None], unit, best)
            return (unit, slope, state, best, jnp.maximum(returns, top)), None

        returns, slope = look(unit)
        first = unit, slope, adam.init(unit), unit, returns
        (_, _, _, best, top), _ = jax.lax.scan(body, first, length=self.config.iterations)
        plan, following = self._read(params, keys, latent, actions(best), top)
        return self._explored(start_key, plan), following

    def _real(self, unit: Float[Array, "B K H A"]) -> Float[Array, "B K H A"]:
        """Return actions of what is given in halves of the action range."""
        return self.centre[None, None, None] + self.half[None, None, None] * unit

    def _starts(self, key: PRNGKey, batch: int, carry: Warm) -> Float[Array, "B K H A"]:
        """Return where to start, in halves of the action range: around the plan before, itself first."""
        known = carry.known[..., None]
        before = known * (carry.sequence - self.centre[None, None]) / self.half[None, None]
        shape = batch, self.config.starts, self.config.horizon, self.problem.actions
        eps = self.config.std * normal(key, shape)
        first = (jnp.arange(self.config.starts) == 0)[None, :, None, None]
        eps = jnp.where(first & (known[:, None] > 0), 0.0, eps)
        return jnp.clip(before[:, None] + eps, -1.0, 1.0)

    def _explored(self, key: PRNGKey, plan: Plan) -> Plan:
        """Return a plan that begins with noise added, where there is any."""
        if self.config.noise == 0:
            return plan
        assert plan.sequence is not None
        eps = self.config.noise * normal(jax.random.fold_in(key, 1), plan.action.shape)
        action = into_bounds(self.problem, plan.action + self.half[None] * eps)
        return plan._replace(action=action, sequence=plan.sequence.at[:, 0].set(action))

    def _read(
        self, params: Params, keys: Array, latent: Latent, tried: Float[Array, "B K H A"], returns: Array
    ) -> tuple[Plan, Warm]:
        winner = jnp.argmax(returns, -1)
        weights = jax.nn.one_hot(winner, returns.shape[-1])
        sequence = take(tried, winner[:, None])[:, 0]
        plan = Plan(
            action=sequence[:, 0],
            candidates=tried[:, :, 0],
            weights=weights,
            value=returns.max(-1),
            spread=moments(returns, jnp.full_like(returns, 1 / returns.shape[-1]))[1],
            sequence=sequence,
            fan=roll(self.problem, params, keys, latent, tried)[1],
            tree=None,
            steps=jnp.int32(self.steps),
        )
        return plan, shifted(sequence, jnp.ones(sequence.shape[:2]))
