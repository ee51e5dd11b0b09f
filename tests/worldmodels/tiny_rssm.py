"""A world model small enough to test by hand, parameters without special values, and a sequence with two episodes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from mbrl.core.types import FIRST, LAST, MID, Sequence, TimeStep
from mbrl.worldmodels.rssm import RSSM, RSSMConfig

WIDTHS = RSSMConfig(deter=8, hidden=6, units=7, stoch=3, classes=4, blocks=2, bins=5)
CONFIG = dataclasses.replace(WIDTHS, encoder_layers=1, decoder_layers=1, prior_layers=1, free_nats=0.0)
OBSERVATION = {"pos": specs.Array((2,), np.float32), "time": specs.Array((), np.float32)}
ACTION = specs.BoundedArray((2,), np.float32, -1.0, 1.0)
STEP_TYPES = np.array([[MID, MID], [MID, LAST], [LAST, FIRST], [FIRST, MID], [MID, MID]], np.int32)  # [T + 1, B]


def make(**changes):
    return RSSM(dataclasses.replace(CONFIG, **changes), OBSERVATION, ACTION)


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def parameters(model):
    """Return parameters none of which has its special initial value (heads of zeros, norm scales of one)."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    # A norm's scale may be laid out in blocks; it is one vector all the same.
    size = lambda path, x: x.size if path[-1].key == "scale" else x.shape[0]
    return jax.tree.map_with_path(lambda path, x: normal(rng, *x.shape) / max(1, size(path, x)) ** 0.5, shapes)


def latents(model, *lead):
    """Return latents with states in the unit box and one-hot (or normal) samples."""
    rng = np.random.default_rng(1)
    deter = jnp.tanh(normal(rng, *lead, model.deter))
    statistics = model.stochastic.statistics(normal(rng, *lead, model.stochastic.outputs))
    stoch = model.stochastic.sample(statistics, jnp.full((*lead, model.config.stoch), 0.5))
    return type(model.initial(1))(deter, stoch)


def sequence(model, step_types=STEP_TYPES):
    """Return a sequence ``[T + 1, B]`` of noise; a LAST of batch entry 1 is a termination, of entry 0 a truncation."""
    rng, lead = np.random.default_rng(2), step_types.shape
    reward = normal(rng, *lead) * (step_types != FIRST)
    ended = (step_types == LAST) & (np.arange(lead[1]) == 1)
    observation = {"pos": 3 * normal(rng, *lead, 2), "time": normal(rng, *lead)}
    timestep = TimeStep(jnp.asarray(step_types), reward, jnp.asarray(1.0 - ended, jnp.float32), observation)
    return Sequence(timestep, jnp.tanh(normal(rng, *lead, 2)), model.pack(latents(model, *lead)))
