"""No search at all, in a planner's form: the policy's mode, which plans are held against."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from mbrl.core.types import Params, PRNGKey
from mbrl.planners.base import NoPlannerConfig, Plan, Problem, check, into_bounds, proposed, worth
from mbrl.worldmodels.base import Latent


class Alone:
    """A ``Planner`` that takes no model step; it keeps nothing between calls."""

    def __init__(self, config: NoPlannerConfig, problem: Problem) -> None:
        """Take a policy; raises UserError for a problem without one."""
        check(config.name, problem, "policy")
        self.problem = problem

    @property
    def steps(self) -> int:
        """Model steps of one plan: none."""
        return 0

    def initial(self, batch_size: int) -> Float[Array, "B 0"]:
        """Return nothing, for B environments."""
        return jnp.zeros((batch_size, 0))

    def plan(self, params: Params, key: PRNGKey, latent: Latent, carry: Array) -> tuple[Plan, Array]:
        """Return the policy's mode in ``latent [B]`` (see ``Planner``)."""
        del key
        assert self.problem.policy is not None
        mode = proposed(self.problem, params, latent).mode()
        action = mode if self.problem.discrete else into_bounds(self.problem, mode)
        zero = jnp.zeros_like(action[:, 0])
        value = worth(self.problem, params, latent, zero).mean(0)
        one = jnp.ones_like(action[:, :1])
        return Plan(action, action[:, None], one, value, zero, None, None, None, jnp.int32(0)), carry
