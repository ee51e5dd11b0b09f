"""One program on several devices, split by the rows of a batch (sequences, environments).

A function that is mapped over devices sees its own rows only. With what is here it still draws, averages and ranks as
if it saw all of them, so that it computes the same numbers however many devices there are; on one device all of it is
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mbrl.core.types import PRNGKey, Scalar

AXIS = "devices"

Tree = TypeVar("Tree")


def devices() -> int:
    """Return over how many devices the function that is being traced is mapped; 1 outside of any such mapping."""
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:
        return 1


def draw(sample: Callable[[PRNGKey, tuple[int, ...]], Array], key: PRNGKey, shape: tuple[int, ...], axis: int) -> Array:
    """Return this device's rows of what a single device would draw for the rows of all.

    Args:
        sample: draws an array of a shape.
        key: the same on all devices.
        shape: of this device's rows.
        axis: along which the rows lie; each device holds as many, in the order of the devices.
    """
    count = devices()
    if count == 1:
        return sample(key, shape)
    rows = shape[axis]
    return own(sample(key, (*shape[:axis], count * rows, *shape[axis + 1 :])), rows, axis)


def mean(tree: Tree) -> Tree:
    """Return the mean over the devices of a tree of arrays of one dtype, by one exchange for all of them."""
    if devices() == 1:
        return tree
    flat, restore = ravel_pytree(tree)
    return restore(jax.lax.pmean(flat, AXIS))


def gather(tree: Tree, axis: int) -> Tree:
    """Return the rows of all devices, joined along ``axis``."""
    if devices() == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, axis=axis, tiled=True), tree)


def own(whole: Array, rows: int, axis: int) -> Array:
    """Return this device's ``rows`` of the rows of all devices; undoes ``gather``."""
    if devices() == 1:
        return whole
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(AXIS) * rows, rows, axis)


def masked_mean(values: Float[Array, "T B"], mask: Float[Array, "T B"]) -> Scalar:
    """Return the mean of the values that count, over all devices' rows; 0 where none does."""
    values, mask = gather((values, mask), axis=1)
    return (values * mask).sum() / jnp.maximum(mask.sum(), 1)
