"""A replay ring: a state and pure functions, part of the jitted training program.

It lies on the device; its frames may lie in the host's memory (`frames.py`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from mbrl.core.types import PRNGKey, Sequence
from mbrl.replay import frames
from mbrl.replay.config import ReplayConfig, check_sizes


class RingState(NamedTuple):
    """The last R vector steps of N environments, R = capacity / N.

    ``cursor`` runs from 0 to R - 1 and over again, so that no counter overflows however long the run.
    """

    data: Sequence  # [R, N, ...]
    cursor: Int[Array, ""]  # the row written next; once all are filled, the oldest
    filled: Int[Array, ""]  # rows written so far, at most R


class Address(NamedTuple):
    """Where the sequences of a batch lie in the ring; valid until the next ``add``."""

    start: Int[Array, "B"]  # the row of the first step; the following ones go round the ring's end
    env: Int[Array, "B"]  # the environment


@dataclasses.dataclass(frozen=True)
class Ring:
    """The pure functions over ``RingState``; nothing but numbers fixed before compilation is kept here.

    Under ``jit`` with the state donated, also inside a scan, ``add`` and ``update_context`` write in place.

    Attributes:
        config: the capacity and the shape of a batch.
        num_envs: N, the environments that write side by side.

    Raises:
        UserError: the numbers do not fit each other (``check_sizes``).
    """

    config: ReplayConfig
    num_envs: int

    def __post_init__(self) -> None:
        check_sizes(self.config, self.num_envs)

    @property
    def rows(self) -> int:
        """R, the steps kept of each environment."""
        return self.config.capacity // self.num_envs

    @property
    def window(self) -> int:
        """T + 1, the steps of a drawn sequence: the context step and the T trained ones."""
        return self.config.batch_length + 1

    @property
    def groups(self) -> int:
        """How many equal parts environments and batch can be split into side by side."""
        return math.gcd(self.num_envs, self.config.batch_size)

    @property
    def recent(self) -> int:
        """The sequences of a batch that end at the newest step; each comes from another environment."""
        return min(round(self.config.recent_fraction * self.config.batch_size), self.num_envs)

    def init(self, step: Sequence) -> RingState:
        """Return an empty ring for steps with the shapes and dtypes of ``step``, ``[N, ...]``."""
        return self.settle(self.blank(step))

    def blank(self, step: Sequence) -> RingState:
        """Return what ``init`` does, but all of it on the device; only what it is replaced by need be computed."""
        data = jax.tree.map(lambda x: jnp.zeros((self.rows, *x.shape), x.dtype), step)
        return RingState(data, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def settle(self, state: RingState, places: RingState | None = None) -> RingState:
        """Return a ``blank`` ring, or those of several seeds, with the frames where the config says.

        Args:
            state: the ring, under ``jit``.
            places: the sharding of each leaf; None for one device.
        """
        if self.config.frames == "device":
            return state
        move = lambda framed, leaf, *place: frames.zeros(leaf, *place) if framed else leaf
        place = () if places is None else (places.data,)
        return state._replace(data=jax.tree.map(move, self._framed(state.data), state.data, *place))

    def add(self, state: RingState, step: Sequence) -> RingState:
        """Write one step of all environments, ``[N, ...]``, over the oldest."""
        put = lambda ring, x, cursor: jax.lax.dynamic_update_index_in_dim(ring, x, cursor, axis=0)
        write = lambda framed, ring, x: (frames.write if framed else put)(ring, x, state.cursor)
        data = jax.tree.map(write, self._framed(state.data), state.data, step)
        cursor = (state.cursor + 1) % self.rows
        return RingState(data, cursor, jnp.minimum(state.filled + 1, self.rows))

    def size(self, state: RingState) -> Int[Array, ""]:
        """Return the agent steps held, over all environments."""
        return state.filled * self.num_envs

    def can_sample(self, state: RingState) -> Bool[Array, ""]:
        """Return whether one whole sequence is held, so that there is something to ``sample``."""
        return state.filled >= self.window

    def sample(self, state: RingState, key: PRNGKey) -> tuple[Sequence, Address]:
        """Draw a batch of sequences, ``[T+1, B, ...]``, and say where they lie: ``read`` at what ``draw`` returns."""
        address = self.draw(state, key)
        return self.read(state, address), address

    def draw(self, state: RingState, key: PRNGKey) -> Address:
        """Draw where the sequences of a batch lie.

        Each is a run of successive steps of one environment, oldest first; it may cross the border of an episode,
        which FIRST marks. Environments and sequences stand in as many groups as both divide into, in their order, and
        a sequence comes from an environment of its own group: so every environment has its fair share of a batch, and
        a device that holds some of the groups needs no other's experience. Within the group, environment and start
        are uniform, and with replacement. ``recent`` of the sequences end at the newest step, each in another
        environment, as many in each group as in any other, or one more.
        """
        groups = self.groups
        envs, sequences = self.num_envs // groups, self.config.batch_size // groups
        newest = state.filled - self.window  # the last start there is, counted from the oldest row
        # All of the draw's chance at once: a generator's call for each use is much to compile. A remainder of 32 bits
        # is uniform to one part in 2^32 / rows; the order of random numbers is a random permutation.
        starts, choices, orders, turns = _split(
            jax.random.bits(key, (groups * (2 * sequences + envs + 1),)),
            (groups, sequences), (groups, sequences), (groups, envs), (groups,),
        )
        start = (starts % jnp.maximum(newest + 1, 1).astype(jnp.uint32)).astype(jnp.int32)
        env = (choices % envs).astype(jnp.int32)
        recent = (self.recent + jnp.argsort(turns)) // groups  # of each group: the numbers add up to ``recent``
        place = jnp.arange(sequences)
        is_recent = place[None] < recent[:, None]
        env = jnp.where(is_recent, jnp.argsort(orders)[:, place % envs], env) + envs * jnp.arange(groups)[:, None]
        start = jnp.where(is_recent, newest, start)
        oldest = state.cursor - state.filled
        return Address(((oldest + start) % self.rows).ravel(), env.ravel())

    def read(self, state: RingState, address: Address) -> Sequence:
        """Return the sequences ``[T+1, B, ...]`` at an address; zeros while no whole one is held (``can_sample``).

        A device may read its own groups in its own part of the ring, as ``update_context`` may write there.
        """
        # The branch also keeps the compiler from fusing this read with an ``add`` before it, which would make it copy
        # the ring in order to write the contexts back.
        return jax.lax.cond(self.can_sample(state), self._gather, self._zeros, state.data, address)

    def update_context(self, state: RingState, address: Address, context: PyTree) -> RingState:
        """Write the contexts ``[T+1, B, ...]`` of a batch back to the steps they belong to.

        Where sequences overlap, the last in the batch wins. Duplicate indices in a scatter would leave the winner
        to chance on a GPU, and with it the run's repeatability; so all but the winner are dropped beforehand.

        Args:
            state: the ring, with no ``add`` since the batch was drawn.
            address: what ``sample`` returned beside the batch.
            context: the new contexts, with the stored ones' structure and dtypes.
        """
        rows = self._rows(address)
        position = (rows[:, :, None] - address.start[None, None, :]) % self.rows  # of each step in each sequence
        same_env = address.env[:, None] == address.env[None, :]
        order = jnp.arange(address.env.size)
        later = order[:, None] < order[None, :]
        overwritten = jnp.any((position < self.window) & (same_env & later)[None], axis=-1)
        rows = jnp.where(overwritten, self.rows, rows)  # out of bounds: dropped
        stored = jax.tree.map(
            lambda ring, x: ring.at[rows, self._own(ring, address)].set(x, mode="drop", unique_indices=True),
            state.data.context,
            context,
        )
        return state._replace(data=state.data._replace(context=stored))

    def _own(self, ring: Array, address: Address) -> Int[Array, "1 B"]:
        """Return the environments as they are counted in this ring, which may be one device's part of the whole."""
        return address.env[None] % ring.shape[1]

    def _rows(self, address: Address) -> Int[Array, "T B"]:
        return (address.start[None, :] + jnp.arange(self.window)[:, None]) % self.rows

    def _gather(self, data: Sequence, address: Address) -> Sequence:
        rows = self._rows(address)
        gather = lambda ring: ring.at[rows, self._own(ring, address)].get(mode="clip")
        slices = lambda ring: frames.read(ring, address.start, self._own(ring, address)[0], self.window)
        return jax.tree.map(lambda framed, ring: (slices if framed else gather)(ring), self._framed(data), data)

    def _framed(self, data: Sequence) -> Sequence:
        """Return which leaves lie in the host's memory."""
        return frames.where(data) if self.config.frames == "host" else jax.tree.map(lambda _: False, data)

    def _zeros(self, data: Sequence, address: Address) -> Sequence:
        shape = self.window, address.env.size
        return jax.tree.map(lambda ring: jnp.zeros((*shape, *ring.shape[2:]), ring.dtype), data)


def _split(flat: Array, *shapes: tuple[int, ...]) -> list[Array]:
    """Return arrays of these shapes, cut from a vector one after the other."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(jnp.split(flat, ends[:-1]), shapes, strict=True)]
