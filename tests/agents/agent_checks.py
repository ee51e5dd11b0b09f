"""Tests of every agent that learns by gradient, and the noise it is given to learn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.agents import AGENTS, Agent
from mbrl.core.types import FIRST, LAST, MID, Sequence, TimeStep
from mbrl.worldmodels.ensemble import Latent
from mbrl.worldmodels.rssm import RSSM

OBSERVATION = {"pos": specs.Array((2,), np.float32), "grid": specs.Array((2, 2), np.float32)}
ACTION = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
KEY = jax.random.key(0)


class Learner:
    """What holds of each of them: a module's ``TestLearner`` says of whom, and its fixture ``state`` is fresh."""

    name, config, gamma = "", None, 0.0
    specs = (OBSERVATION, ACTION)
    update = sequence = None  # the jitted update, and what makes up experience from a seed

    def test_it_stands_in_the_registry(self):
        entry = AGENTS[self.name]
        assert entry.config is type(self.config)
        agent = entry.make(self.config, *self.specs)
        assert isinstance(agent, Agent)
        assert agent.gamma == self.gamma

    def test_update_compiles_once_and_keeps_its_types(self, state):
        kind = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
        output = self.update(state, KEY, self.sequence())
        for seed in (1, 2):
            given = self.sequence(seed)._replace(context=output.context)
            output = self.update(output.state, jax.random.key(seed), given)
        assert kind(output.state) == kind(state)
        assert kind(output.context) == kind(self.sequence().context)
        assert all(x.shape == () for x in output.metrics.values())
        assert output.metrics["update/skipped"] == 0

    def test_every_parameter_learns(self, state):
        # Two updates, for behind heads of zeros nothing learns in the first.
        learned = self.update(self.update(state, KEY, self.sequence()).state, KEY, self.sequence(1)).state
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), learned.params, state.params)
        assert all(jax.tree.leaves(changed)), changed

    @pytest.mark.parametrize(("where", "bad"), [("reward", np.nan), ("observation", np.nan), ("observation", np.inf)])
    def test_a_broken_batch_changes_nothing(self, state, where, bad):
        good = self.sequence()
        timestep = good.timestep
        if where == "reward":
            timestep = timestep._replace(reward=timestep.reward.at[2, 1].set(bad))
        else:
            pos = timestep.observation["pos"].at[2, 1, 0].set(bad)
            timestep = timestep._replace(observation=timestep.observation | {"pos": pos})
        state = self.update(state, KEY, good).state
        output = self.update(state, KEY, good._replace(timestep=timestep))
        assert output.metrics["update/skipped"] == 1
        assert not any(unlike(output.state, state))
        assert not any(unlike(output.context, good.context))


class EnsembleLearner(Learner):
    """What holds beside it of those whose model is an ensemble; ``golden`` is of the second update."""

    golden: dict[str, float]

    def test_fresh_contexts_come_back(self, state):
        given = self.sequence()
        context = self.update(state, KEY, given).context
        assert not any(unlike(jax.tree.map(lambda x: x[0], context), jax.tree.map(lambda x: x[0], given.context)))
        np.testing.assert_array_equal(context.observation, given.context.observation)
        assert (context.reward[1:] != given.context.reward[1:]).all()

    def test_golden_metrics(self, state):
        for seed in range(2):
            state, _, metrics = self.update(state, KEY, self.sequence(seed))
        assert {name: float(metrics[name]) for name in self.golden} == pytest.approx(self.golden, rel=1e-4)


class LearnedError(Exception):
    """Carries what an update was about to learn from out of it."""


def start_of_update(agent, sequence, monkeypatch):
    """Return the latent ``[B]`` from which an RSSM filters what a Dreamer learns from."""

    def spy(model, params, key, latent, sequence):
        del model, params, key, sequence
        raise LearnedError(latent)

    monkeypatch.setattr(RSSM, "_observe", spy)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(agent.init, KEY))
    with pytest.raises(LearnedError) as learned:
        agent.update(state, KEY, sequence)
    return learned.value.args[0]


def unlike(one, other):
    return [bool((a != b).any()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)]


def noise(seed=0, steps=4, batch=2, observation=OBSERVATION):
    """Return what draws noise ``[T + 1, B, ...]`` and steps of it, in which an episode ends and another begins."""
    rng, lead = np.random.default_rng(seed), (steps + 1, batch)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32)
    step_type = np.full(lead, MID, np.int32)
    step_type[2, 0], step_type[3, 0] = LAST, FIRST
    going = jnp.asarray(step_type != LAST, jnp.float32)
    reward, seen = draw(), {name: draw(*spec.shape) for name, spec in observation.items()}
    return draw, TimeStep(jnp.asarray(step_type), reward, going, seen)


def ensembles_sequence(seed=0):
    """Return noise ``[T + 1, B]`` with an ensemble's contexts."""
    draw, timestep = noise(seed)
    seen = timestep.observation
    seen = jnp.concatenate([seen["grid"].reshape((*timestep.reward.shape, 4)), seen["pos"]], -1)
    return Sequence(timestep, jnp.tanh(draw(1)), Latent(seen, draw(), jnp.abs(draw()), draw()))
