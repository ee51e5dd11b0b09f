import dataclasses

import agent_checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agent_checks import ACTION, KEY, OBSERVATION
from agent_checks import ensembles_sequence as sequence

from mbrl.agents.mbpo import MBPO, MBPOConfig, make
from mbrl.behaviours.soft_actor_critic import SoftActorCriticConfig
from mbrl.core.errors import UserError
from mbrl.core.optim import OptimConfig
from mbrl.core.types import FIRST, MID
from mbrl.worldmodels.ensemble import EnsembleConfig

CONFIG = MBPOConfig(
    worldmodel=EnsembleConfig(members=3, layers=1, units=6, beta=0.0),
    behaviour=SoftActorCriticConfig(units=6, horizon=2, actor_layers=1, critic_layers=1),
    behaviour_updates=3,
    behaviour_steps=2,
)
AGENT = MBPO(CONFIG, OBSERVATION, ACTION)
# Of the second update, when critics are no longer zero.
GOLDEN = {"loss/observation": 9.5128403, "loss/critic": 0.1115973, "loss/actor": -0.0442761}

chex.clear_trace_counter()
init = jax.jit(AGENT.init)
update = jax.jit(chex.assert_max_traces(AGENT.update, n=1))
act = jax.jit(AGENT.act, static_argnums=4)


@pytest.fixture(scope="module")
def state():
    return init(KEY)


class TestLearner(agent_checks.EnsembleLearner):
    name, config, gamma = "mbpo", CONFIG, 0.99
    update, sequence = staticmethod(update), staticmethod(sequence)
    golden = GOLDEN


def test_the_behaviour_learns_as_often_as_it_is_told(state):
    learned = update(state, KEY, sequence()).state.optimisers["behaviour"]
    assert 3 in {int(leaf) for leaf in jax.tree.leaves(learned) if leaf.ndim == 0}


@pytest.mark.parametrize("mode", ["train", "eval", "random"])
def test_acting(state, mode):
    fresh, given = AGENT.initial(2), sequence()
    seen = jax.tree.map(lambda x: x[0], given.timestep)._replace(step_type=jnp.array([FIRST, MID], jnp.int32))
    used = jax.tree.map(lambda x: x + 0.5, fresh)
    one, other = act(state, KEY, fresh, seen, mode), act(state, KEY, used, seen, mode)
    assert abs(one.action).max() <= 1
    np.testing.assert_array_equal(one.carry.action, one.action)
    np.testing.assert_array_equal(one.context.observation, given.context.observation[0])
    # What was before FIRST is forgotten, and what is seen is all there is to act on.
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(one.action, other.action)
    assert one.context.reward[1] != other.context.reward[1]


def test_diagnosis(state):
    given, seen = sequence(5), 2
    said = jax.jit(AGENT.diagnose, static_argnums=3)(state, KEY, given, seen)
    shapes = {name: jax.tree.map(jnp.shape, getattr(said, name)) for name in said._fields}
    observed = {"grid": (5, 2, 2, 2), "pos": (5, 2, 2)}
    assert shapes.pop("observation") == shapes.pop("open_loop_observation") == observed
    assert set(shapes.values()) == {(5, 2)}
    # What was seen is known; what lies ahead is dreamt.
    for name, real in given.timestep.observation.items():
        np.testing.assert_allclose(said.observation[name], real, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(said.open_loop_observation[name][:seen], real[:seen], rtol=1e-4, atol=1e-5)
        assert (said.open_loop_observation[name][seen:] != real[seen:]).all()


def test_actions_in_a_dict_are_refused_in_a_sentence():
    with pytest.raises(UserError) as error:
        make(CONFIG, OBSERVATION, {"arm": ACTION})
    assert str(error.value) == "mbpo takes one action array; this environment's action_spec is a dict: flatten it"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"worldmodel": EnsembleConfig(members=0)}, "worldmodel.members"),
        ({"behaviour": SoftActorCriticConfig(horizon=0)}, "behaviour.horizon"),
        ({"optim": OptimConfig(agc=0.0)}, "optim.agc"),
        ({"behaviour_optim": OptimConfig(eps=0.0)}, "optim.eps"),
        ({"behaviour_updates": 0}, "agent.behaviour_updates"),
        ({"behaviour_steps": 0}, "agent.behaviour_steps"),
    ],
)
def test_each_part_is_checked_when_the_agent_is_made(changes, names):
    with pytest.raises(UserError, match=names):
        make(dataclasses.replace(CONFIG, **changes), OBSERVATION, ACTION)
