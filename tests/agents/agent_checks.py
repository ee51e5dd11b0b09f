"""What holds of the update of every agent that learns by gradient; ``sequence(seed)`` makes up experience."""

import jax
import jax.numpy as jnp
import numpy as np

from mbrl.core.types import FIRST, LAST, MID, Sequence, TimeStep
from mbrl.worldmodels.ensemble import Latent


def unlike(one, other):
    return [bool((a != b).any()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)]


def keeps_types(update, state, sequence):
    kind = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
    output = update(state, jax.random.key(0), sequence())
    for seed in (1, 2):
        output = update(output.state, jax.random.key(seed), sequence(seed)._replace(context=output.context))
    assert kind(output.state) == kind(state)
    assert kind(output.context) == kind(sequence().context)
    assert all(x.shape == () for x in output.metrics.values())
    assert output.metrics["update/skipped"] == 0


def every_parameter_learns(update, state, sequence):
    # Two updates, for behind heads of zeros nothing learns in the first.
    key = jax.random.key(0)
    learned = update(update(state, key, sequence()).state, key, sequence(1)).state
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), learned.params, state.params)
    assert all(jax.tree.leaves(changed)), changed


def a_broken_batch_changes_nothing(update, state, good, where, bad):
    timestep, key = good.timestep, jax.random.key(0)
    if where == "reward":
        timestep = timestep._replace(reward=timestep.reward.at[2, 1].set(bad))
    else:
        pos = timestep.observation["pos"].at[2, 1, 0].set(bad)
        timestep = timestep._replace(observation=timestep.observation | {"pos": pos})
    state = update(state, key, good).state
    output = update(state, key, good._replace(timestep=timestep))
    assert output.metrics["update/skipped"] == 1
    assert not any(unlike(output.state, state))
    assert not any(unlike(output.context, good.context))


def ensembles_sequence(seed=0, steps=4, batch=2):
    """Return noise ``[T + 1, B]`` with an ensemble's contexts; the first entry's episode ends and another begins."""
    rng, lead = np.random.default_rng(seed), (steps + 1, batch)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32)
    step_type = np.full(lead, MID, np.int32)
    step_type[2, 0], step_type[3, 0] = LAST, FIRST
    observation = {"pos": draw(2), "grid": draw(2, 2)}
    timestep = TimeStep(jnp.asarray(step_type), draw(), jnp.asarray(step_type != LAST, jnp.float32), observation)
    seen = jnp.concatenate([observation["grid"].reshape((*lead, 4)), observation["pos"]], -1)
    return Sequence(timestep, jnp.tanh(draw(1)), Latent(seen, draw(), jnp.abs(draw()), draw()))
