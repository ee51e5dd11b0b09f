"""A tree of arrays laid out as rows of one matrix, so that what is done to each tensor alike is one operation.

A network has a hundred small tensors. An optimiser that treats them one by one is several hundred small kernels, each
to be compiled and each to be launched at every update; on rows it is a handful.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

WIDTH = 128  # of a row: what is padded is less than one row a tensor


class Split(NamedTuple):
    """Rows of which each device may hold some columns only: what is done to each number by itself needs no others."""

    rows: Any  # [R, W], or of W those that are here


def is_split(node: Any) -> bool:
    """Whether a node of a tree is ``Split``."""
    return isinstance(node, Split)


class Rows:
    """The layout of trees of one structure, float32 all of them. Every tensor begins a row; zeros fill its last."""

    def __init__(self, tree: Any) -> None:
        """Lay out trees with the structure and shapes of this one."""
        leaves, self._structure = jax.tree.flatten(tree)
        self._shapes = [jnp.shape(leaf) for leaf in leaves]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        counts = [-(-size // WIDTH) for size in self._sizes]
        self._starts = WIDTH * (np.cumsum(counts) - counts)
        self._owner = np.repeat(np.arange(len(counts), dtype=np.int32), counts)  # the tensor of each row

    def pack(self, tree: Any) -> Float[Array, "R W"]:
        """Return the tree's numbers as rows."""
        parts = []
        for leaf, size in zip(self._structure.flatten_up_to(tree), self._sizes, strict=True):
            parts += [jnp.ravel(leaf), jnp.zeros(-size % WIDTH)]
        return jnp.concatenate([*parts, jnp.zeros(0)]).reshape((-1, WIDTH))

    def unpack(self, rows: Float[Array, "R W"]) -> Any:
        """Undo ``pack``."""
        flat = rows.ravel()
        places = zip(self._starts, self._sizes, self._shapes, strict=True)
        return self._structure.unflatten([flat[start : start + size].reshape(shape) for start, size, shape in places])

    def norms(self, rows: Float[Array, "R W"]) -> Float[Array, "R 1"]:
        """Return for each row the Euclidean norm of the tensor that it is part of."""
        squares = jnp.square(rows).sum(-1)
        sums = jax.ops.segment_sum(squares, self._owner, len(self._sizes), indices_are_sorted=True)
        return jnp.sqrt(sums)[self._owner][:, None]


def tree_norm(tree: Any) -> Float[Array, ""]:
    """Return the Euclidean norm of all of a tree's numbers together."""
    return jnp.linalg.norm(ravel_pytree(tree)[0])
