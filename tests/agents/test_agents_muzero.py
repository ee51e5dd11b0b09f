import dataclasses

import agent_checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agent_checks import ACTION, KEY, OBSERVATION, LearnedError, noise, unlike
from dm_env import specs

from mbrl.agents.muzero import MuZero, MuZeroConfig, make
from mbrl.agents.planning import with_planner
from mbrl.agents.searching import NEVER, Target
from mbrl.behaviours.policy_value import PolicyValueConfig
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, MID, Sequence
from mbrl.nets.images import ImageConfig
from mbrl.planners import PLANNERS
from mbrl.planners.mcts import MCTSConfig
from mbrl.planners.soft_tree import SoftTreeConfig
from mbrl.worldmodels.muzero import MuZeroModelConfig

CONFIG = MuZeroConfig(
    worldmodel=MuZeroModelConfig(
        state=5, units=6, encoder_layers=1, dynamics_layers=1, bins=9, unroll=2, prefix=True, memory=3,
        consistency_scale=2.0, consistency_size=3,
    ),
    behaviour=PolicyValueConfig(layers=1, units=6, bins=9, horizon=2),
    planner=MCTSConfig(simulations=3, candidates=4),
    reanalyse=0.4,
    target_rate=0.5,
)
AGENT = MuZero(CONFIG, OBSERVATION, ACTION)

chex.clear_trace_counter()
init = jax.jit(AGENT.init)
update = jax.jit(chex.assert_max_traces(AGENT.update, n=1))
act = jax.jit(AGENT.act, static_argnums=4)


def sequence(seed=0, searched=0):
    """Return a sequence ``[T + 1, B]`` of noise with what was searched in this update."""
    draw, timestep = noise(seed)
    when = jnp.full(timestep.reward.shape, searched, jnp.int32)
    target = Target(jnp.tanh(draw(4, 1)), jax.nn.softmax(draw(4)), draw(), when)
    return Sequence(timestep, jnp.tanh(draw(1)), target)


@pytest.fixture(scope="module")
def state():
    return init(KEY)


class TestLearner(agent_checks.Learner):
    name, config, gamma = "muzero", CONFIG, 0.997
    update, sequence = staticmethod(update), staticmethod(sequence)


def test_the_target_network_follows(state):
    new = update(state, KEY, sequence()).state
    halfway = jax.tree.map(lambda a, b: (a + b) / 2, new.params, state.target)
    for ours, theirs in zip(jax.tree.leaves(new.target), jax.tree.leaves(halfway), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert int(new.updates) == 1


def test_reanalysed_targets_replace_old_ones_and_are_new(state):
    """Of five steps two are searched again in each update: their targets change and their age is 0."""
    given, later = sequence(searched=3), state._replace(updates=jnp.int32(13))
    output = update(later, KEY, given)
    renewed = np.asarray(output.context.searched == 13)
    assert renewed.all(1).sum() == 2  # whole times
    assert renewed.sum() == 2 * 2
    for old, new in zip(given.context[:3], output.context[:3], strict=True):
        changed = np.asarray(old != new).reshape((5, 2, -1)).any(-1)
        np.testing.assert_array_equal(changed, renewed)
    np.testing.assert_allclose(output.context.weights.sum(-1), 1, rtol=1e-5)
    # Six of ten are 10 updates old.
    assert float(output.metrics["search/age"]) == pytest.approx(6, rel=1e-6)
    other = update(later, jax.random.key(3), given).context.searched
    assert (other != output.context.searched).any()


def test_what_was_never_searched_teaches_nothing(state):
    """Targets of random actions hold no search: whatever they say, the update is the same."""
    one, other = (sequence(searched=NEVER), sequence(searched=NEVER))
    garbage = jax.tree.map(lambda x: x + 1 if x.dtype == jnp.float32 else x, other.context)
    ours, theirs = update(state, KEY, one), update(state, KEY, other._replace(context=garbage))
    assert not any(unlike(ours.state, theirs.state))
    known = sequence(searched=0)
    assert any(unlike(ours.state.params["actor"], update(state, KEY, known).state.params["actor"]))


def test_images_are_shifted_where_they_are_learned_from_alone():
    """Not the vectors beside them, and not what the target network values and searches."""

    class Spy(MuZero):
        def _loss(self, params, sequence, searched, value):
            del params, searched
            raise LearnedError(sequence.timestep.observation, value)

    def learned(shift):
        model = dataclasses.replace(CONFIG.worldmodel, images=ImageConfig(depth=2, shift=shift))
        spec = {"eye": specs.BoundedArray((8, 8, 1), np.uint8, 0, 1), "pos": OBSERVATION["pos"]}
        spy = Spy(dataclasses.replace(CONFIG, worldmodel=model, reanalyse=0.0), spec, ACTION)
        with pytest.raises(LearnedError) as error:
            spy.update(jax.jit(spy.init)(KEY), KEY, given)
        return error.value.args

    given, eye = sequence(), np.random.default_rng(1).integers(0, 2, (5, 2, 8, 8, 1), np.uint8)
    seen = {"eye": jnp.asarray(eye), "pos": given.timestep.observation["pos"]}
    given = given._replace(timestep=given.timestep._replace(observation=seen))
    (still, value), (moved, valued) = learned(0), learned(4)
    np.testing.assert_array_equal(still["eye"], eye)
    assert (moved["eye"] != eye).any((0, 2, 3, 4)).all()
    np.testing.assert_array_equal(moved["pos"], seen["pos"])
    np.testing.assert_array_equal(valued, value)


@pytest.mark.parametrize("mode", ["train", "eval", "random"])
def test_acting(state, mode):
    fresh, given = AGENT.initial(2), sequence()
    seen = jax.tree.map(lambda x: x[0], given.timestep)._replace(step_type=jnp.array([FIRST, MID], jnp.int32))
    used = jax.tree.map(lambda x: x + 0.5, fresh)
    one, other = act(state, KEY, fresh, seen, mode), act(state, KEY, used, seen, mode)
    assert abs(one.action).max() <= 1
    np.testing.assert_array_equal(one.carry.action, one.action)
    # It remembers nothing, but what it expected to come with what it sees.
    np.testing.assert_array_equal(one.action, other.action)
    np.testing.assert_array_equal(one.carry.latent.reward[0], other.carry.latent.reward[0])
    assert one.context.candidates.shape == (2, 4, 1)
    assert (one.context.searched == (NEVER if mode == "random" else 0)).all()
    if mode != "random":
        assert (one.context.candidates == one.action[:, None]).all(-1).any(-1).all()
    assert act._cache_size() <= 3


def test_training_explores_and_evaluation_does_not():
    """Gumbel noise makes the choice in training a draw; without it the same candidates have one best."""
    assert (AGENT.searcher.bold.config.gumbel, AGENT.searcher.calm.config.gumbel) == (1, 0)


@pytest.mark.parametrize("search", [CONFIG.planner, SoftTreeConfig(rounds=2, width=4, candidates=4, refine=0)])
def test_discrete_actions_are_all_candidates(search):
    agent = MuZero(dataclasses.replace(CONFIG, planner=search), OBSERVATION, specs.DiscreteArray(3))
    state, seen = jax.jit(agent.init)(KEY), jax.tree.map(lambda x: x[0], sequence().timestep)
    output = jax.jit(agent.act, static_argnums=4)(state, KEY, agent.initial(2), seen, "train")
    np.testing.assert_array_equal(np.sort(output.context.candidates.argmax(-1), -1), [[0, 1, 2]] * 2)
    assert (output.action.sum(-1) == 1).all()
    np.testing.assert_allclose(output.context.weights.sum(-1), 1, rtol=1e-5)


def test_another_planner_acts_with_it(state):
    small = dataclasses.replace(PLANNERS["mppi"].config, samples=8, elites=4, policy_samples=2, iterations=2)
    agent = with_planner(make(CONFIG, OBSERVATION, ACTION), small)
    seen = jax.tree.map(lambda x: x[0], sequence().timestep)
    output = jax.jit(agent.act, static_argnums=4)(state, KEY, agent.initial(2), seen, "eval")
    assert abs(output.action).max() <= 1
    np.testing.assert_array_equal(output.carry.memory.action, output.action)


def test_diagnosis(state):
    given, seen = sequence(5), 2
    said = jax.jit(AGENT.diagnose, static_argnums=3)(state, KEY, given, seen)
    shapes = {name: jax.tree.map(jnp.shape, getattr(said, name)) for name in said._fields}
    observed = {"grid": (5, 2, 2, 2), "pos": (5, 2, 2)}
    assert shapes.pop("observation") == shapes.pop("open_loop_observation") == observed
    assert set(shapes.values()) == {(5, 2)}
    changed = given._replace(timestep=jax.tree.map(lambda x: x.at[seen:].multiply(2), given.timestep))
    other = jax.jit(AGENT.diagnose, static_argnums=3)(state, KEY, changed, seen)
    # The open loop has seen nothing of what came after; the filter has.
    np.testing.assert_array_equal(said.open_loop_reward, other.open_loop_reward)
    assert (said.observation["pos"][seen:] != other.observation["pos"][seen:]).any()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reanalyse": 1.5}, r"agent.reanalyse must lie in \[0, 1\]; got 1.5"),
        ({"target_rate": -1.0}, r"agent.target_rate must lie in \[0, 1\]; got -1.0"),
        ({"worldmodel": MuZeroModelConfig(bins=2)}, "worldmodel.bins must be odd"),
        ({"behaviour": PolicyValueConfig(lam=2.0)}, r"behaviour.lam must lie in \[0, 1\]"),
        ({"planner": PLANNERS["mppi"].config}, "unknown agent.planner of muzero 'mppi'; known are mctx, soft_tree"),
        ({"planner": MCTSConfig(simulations=0)}, "planner mctx: simulations must be between 1 and 10000; got 0"),
    ],
)
def test_bad_configs_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        make(dataclasses.replace(CONFIG, **changes), OBSERVATION, ACTION)


def test_actions_in_a_dict_are_refused_in_a_sentence():
    with pytest.raises(UserError, match=r"^muzero takes one action array"):
        make(CONFIG, OBSERVATION, {"arm": ACTION})
