"""Many sessions of one policy: their memory in one table on the device, and one compiled step for a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32

from mbrl.core.errors import UserError
from mbrl.core.types import example
from mbrl.deploy.policy import Named, Policy, Seen
from mbrl.replay import memory


class Request(NamedTuple):
    """One act of one session."""

    slot: int  # where its memory lies
    seed: int  # the session's
    step: int  # how often it has acted: with the seed, what is random
    first: bool
    observation: Any  # [...] arrays
    reward: float
    discount: float


class Answer(NamedTuple):
    """What came of it."""

    action: np.ndarray  # in the environment's own units
    fine: bool  # all numbers were finite; if not, the session's memory is as it was


class Engine:
    """Acts for any sessions at once; used by one thread at a time, for its table changes in place.

    Rows are computed side by side and know nothing of one another: each has its own memory and its own key, made of the
    session's seed and step, so that what a session gets does not depend on who else asks.
    """

    def __init__(self, policy: Policy, sessions: int, rows: int) -> None:
        """Compile the step and make room.

        Args:
            policy: from ``make_policy``.
            sessions: how many can have a memory.
            rows: how many are computed at once; fewer are filled up.

        Raises:
            UserError: the sessions' memory does not fit.
        """
        _check_memory(policy, sessions)
        self.rows = rows
        self._parameters = jax.device_put(policy.parameters)
        # The last slot is nobody's: it belongs to the rows that fill a batch up.
        self._table = jax.jit(lambda: policy.initial(sessions + 1))()
        nothing = jax.tree.map(np.asarray, example(policy.observation_spec))
        self._blank = Request(sessions, 0, 0, True, nothing, 0.0, 1.0)
        lowered = jax.jit(_step(policy), donate_argnums=1).lower(self._parameters, self._table, *self._columns([]))
        self._compiled = lowered.compile()

    def act(self, requests: Sequence[Request]) -> list[Answer]:
        """Act for up to ``rows`` different sessions; the answers are in the requests' order."""
        actions, fine, self._table = self._compiled(self._parameters, self._table, *self._columns(requests))
        told = np.asarray(actions), np.asarray(fine)
        return [Answer(told[0][row], bool(told[1][row])) for row in range(len(requests))]

    def _columns(self, requests: Sequence[Request]) -> tuple[Any, ...]:
        filled = [*requests, *[self._blank] * (self.rows - len(requests))]
        column = lambda name, dtype: np.array([getattr(request, name) for request in filled], dtype)
        observation = jax.tree.map(lambda *leaves: np.stack(leaves), *(request.observation for request in filled))
        numbers = (column(name, np.float32) for name in ("reward", "discount"))
        seen = Seen._make((observation, *numbers, column("first", bool)))
        return *(column(name, np.uint32) for name in ("slot", "seed", "step")), seen


def _check_memory(policy: Policy, sessions: int) -> None:
    one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(lambda: policy.initial(1))))
    free = memory.available_bytes()
    # The table is changed in place, but may be held twice while it is.
    if (most := int(memory.SHARE * free) // (2 * max(one, 1))) < sessions:
        raise UserError(
            f"--max_sessions is {sessions}, of {memory.human(one)} each, but {memory.human(free)} are free; at most "
            f"{most} fit"
        )


def _step(policy: Policy) -> Any:
    def one(parameters: Named, carry: Named, seen: Seen, key: Array) -> tuple[Array, Named]:
        carry, seen = jax.tree.map(lambda x: x[None], (carry, seen))
        action, after = policy.step(parameters, carry, seen, key)
        return action[0], {name: leaf[0] for name, leaf in after.items()}

    def step(
        parameters: Named,
        table: Named,
        slots: UInt32[Array, "R"],
        seeds: UInt32[Array, "R"],
        steps: UInt32[Array, "R"],
        seen: Seen,
    ) -> tuple[Array, Bool[Array, "R"], Named]:
        keys = jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed), number))(seeds, steps)
        before = {name: leaf[slots] for name, leaf in table.items()}
        action, after = jax.vmap(one, (None, 0, 0, 0))(parameters, before, seen, keys)
        fine = jnp.stack([_finite(leaf) for leaf in (action, *after.values())]).all(0)
        kept = {name: jnp.where(fine.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, before[name])
                for name, leaf in after.items()}
        return action, fine, {name: table[name].at[slots].set(kept[name]) for name in table}

    return step


def _finite(leaf: Array) -> Bool[Array, "R"]:
    """Return for each row whether all its numbers are finite."""
    return jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(-1)

