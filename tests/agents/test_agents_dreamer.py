import dataclasses

import agent_checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agent_checks import ACTION, KEY, OBSERVATION, noise, start_of_update, unlike
from dm_env import specs

from mbrl.agents.dreamer import Dreamer, DreamerConfig, make, resolve
from mbrl.behaviours.actor_critic import ActorCriticConfig, check
from mbrl.core.errors import UserError
from mbrl.core.optim import OptimConfig
from mbrl.core.types import FIRST, MID, Sequence
from mbrl.worldmodels.rssm import RSSMConfig, make_stochastic

WIDTHS = RSSMConfig(deter=8, hidden=6, units=6, stoch=3, classes=4, blocks=2, bins=11)
CONFIG = DreamerConfig(
    worldmodel=dataclasses.replace(WIDTHS, encoder_layers=1, decoder_layers=1, prior_layers=1, free_nats=0.0),
    behaviour=ActorCriticConfig(units=6, horizon=2, actor_layers=1, critic_layers=1, bins=11),
    optim=OptimConfig(learning_rate=1e-3, warmup=0),
)
DREAMER = Dreamer(CONFIG, OBSERVATION, ACTION)

# Of the first update and of the second, when heads are no longer zero.
GOLDEN = [
    {"loss/total": 12.1496735, "loss/reconstruction": 5.7783442, "loss/critic": 1.2167872, "loss/dynamics": 0.5890859},
    {"loss/total": 10.0021992, "loss/reward": 2.3933456, "loss/critic": 1.1215688, "loss/replay_critic": 3.9899967},
]

chex.clear_trace_counter()
init = jax.jit(DREAMER.init)
update = jax.jit(chex.assert_max_traces(DREAMER.update, n=1))
act = jax.jit(DREAMER.act, static_argnums=4)
diagnose = jax.jit(DREAMER.diagnose, static_argnums=3)


def sequence(seed=0, model=DREAMER.model):
    """Return a sequence ``[T + 1, B]`` of noise with contexts of noise."""
    draw, timestep = noise(seed)
    latent = model.initial(1)._replace(deter=jnp.tanh(draw(8)), stoch=draw(model.stochastic.size))
    return Sequence(timestep, jnp.tanh(draw(1)), model.pack(latent))


@pytest.fixture(scope="module")
def state():
    return init(KEY)


class TestLearner(agent_checks.Learner):
    name, config, gamma = "dreamer", CONFIG, 0.997
    update, sequence = staticmethod(update), staticmethod(sequence)


def test_the_slow_critic_follows_by_hand(state):
    learned = update(state, KEY, sequence()).state
    assert not any(unlike(state.slow_critic, state.params["critic"]))
    expected = jax.tree.map(lambda slow, fast: 0.98 * slow + 0.02 * fast, state.slow_critic, learned.params["critic"])
    chex.assert_trees_all_close(learned.slow_critic, expected, rtol=1e-6)
    assert any(unlike(learned.slow_critic, state.slow_critic))


def test_fresh_contexts_come_back(state):
    # The first is the one that was given; the others are those the filter passed through.
    given = sequence()
    context = update(state, KEY, given).context
    np.testing.assert_array_equal(context.deter[0], given.context.deter[0])
    assert (context.deter[1:] != given.context.deter[1:]).any(-1).all()
    assert context.stoch.dtype == jnp.uint8


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
@pytest.mark.parametrize("stored", [True, False])
def test_without_stored_contexts_sequences_start_from_nothing(monkeypatch, stored, kind):
    model = dataclasses.replace(CONFIG.worldmodel, latent=kind)
    agent = Dreamer(dataclasses.replace(CONFIG, replay_context=stored, worldmodel=model), OBSERVATION, ACTION)
    given, fresh = sequence(model=agent.model), agent.model.initial(2)
    kept = agent.model.unpack(jax.tree.map(lambda x: x[0], given.context))
    start = start_of_update(agent, given, monkeypatch)
    assert not any(unlike(start, kept if stored else fresh))
    assert any(unlike(kept, fresh))


def test_golden_losses(state):
    for seed, golden in enumerate(GOLDEN):
        state, _, metrics = update(state, KEY, sequence(seed))
        assert {name: float(metrics[name]) for name in golden} == pytest.approx(golden, rel=1e-4)


def test_many_seeds_are_the_same_as_each():
    keys, batches = jax.random.split(jax.random.key(7), 2), [sequence(3), sequence(4)]
    both = jax.tree.map(lambda *parts: jnp.stack(parts), *batches)
    learn = lambda key, batch: DREAMER.update(DREAMER.init(key), key, batch)
    together = jax.jit(jax.vmap(learn))(keys, both)
    for i, batch in enumerate(batches):
        alone = update(init(keys[i]), keys[i], batch)
        ours = jax.tree.map(lambda x: x[i], together)
        chex.assert_trees_all_close(ours.metrics, alone.metrics, rtol=1e-5, atol=1e-5)
        chex.assert_trees_all_close(ours.state.params, alone.state.params, atol=1e-5)


def timestep(step_type, seed=0):
    return jax.tree.map(lambda x: x[0], sequence(seed).timestep)._replace(step_type=jnp.asarray(step_type, jnp.int32))


def test_acting_forgets_at_first(state):
    fresh, seen = DREAMER.initial(2), timestep([FIRST, MID])
    used = jax.tree.map(lambda x: x + 0.5, fresh)
    one, other = act(state, KEY, fresh, seen, "eval"), act(state, KEY, used, seen, "eval")
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
    assert (one.carry.latent.deter[1] != other.carry.latent.deter[1]).any()


@pytest.mark.parametrize("mode", ["train", "eval", "random"])
def test_acting_at_the_door(state, mode):
    output = jax.eval_shape(lambda: DREAMER.act(state, KEY, DREAMER.initial(2), timestep([FIRST, MID]), mode))
    assert output.action.shape == (2, 1)
    assert (output.context.deter.shape, output.context.stoch.shape) == ((2, 8), (2, 3))
    assert jax.tree.structure(output.carry) == jax.tree.structure(DREAMER.initial(2))


def test_acting_remembers_what_it_did(state):
    output = act(state, KEY, DREAMER.initial(2), timestep([MID, MID]), "eval")
    np.testing.assert_array_equal(output.carry.action, output.action)
    assert abs(output.action).max() <= 1
    unpacked = DREAMER.model.unpack(output.context)
    np.testing.assert_allclose(unpacked.stoch, output.carry.latent.stoch, atol=1e-6)
    np.testing.assert_array_equal(unpacked.deter, output.carry.latent.deter)


OPEN = {"open_loop_observation": "observation", "open_loop_reward": "reward", "open_loop_discount": "discount"}


def test_diagnosis(state):
    wave = lambda x: x + 0.1 * np.sin(np.arange(x.size, dtype=np.float32)).reshape(x.shape)
    state = state._replace(params=jax.tree.map(wave, state.params))  # no head is zero any more
    given, seen = sequence(5), 2
    plain = diagnose(state, KEY, given, seen)
    shapes = {name: jax.tree.map(jnp.shape, getattr(plain, name)) for name in plain._fields}
    observed = {"grid": (5, 2, 2, 2), "pos": (5, 2, 2)}
    assert shapes.pop("observation") == shapes.pop("open_loop_observation") == observed
    assert set(shapes.values()) == {(5, 2)}
    # Up to its context the open loop is the filter; then it goes its own way.
    for opened, filtered in OPEN.items():
        parts = zip(jax.tree.leaves(getattr(plain, opened)), jax.tree.leaves(getattr(plain, filtered)), strict=True)
        for one, other in parts:
            np.testing.assert_allclose(one[:seen], other[:seen], rtol=1e-6)
            assert (one[seen:] != other[seen:]).any()
    # What is seen later moves the filter, and not the open loop; what is done later moves both.
    later = np.float32(np.arange(5) >= seen)[:, None, None]
    observation = given.timestep.observation | {"pos": given.timestep.observation["pos"] + later}
    blind = diagnose(state, KEY, given._replace(timestep=given.timestep._replace(observation=observation)), seen)
    for opened, filtered in OPEN.items():
        assert not any(unlike(getattr(blind, opened), getattr(plain, opened)))
        assert any(unlike(getattr(blind, filtered), getattr(plain, filtered)))
    moved = diagnose(state, KEY, given._replace(action=given.action + later), seen)
    assert any(unlike(moved.open_loop_reward, plain.open_loop_reward))


def test_diagnosis_starts_from_the_stored_state(state):
    given = sequence(5)
    latent = DREAMER.model.unpack(jax.tree.map(lambda x: x[0], given.context))
    expected = DREAMER.model.predict(state.params["model"], latent).discount.mean()
    np.testing.assert_allclose(diagnose(state, KEY, given, 2).discount[0], expected, rtol=1e-5)


def test_actions_in_a_dict_are_refused_in_a_sentence():
    with pytest.raises(UserError) as error:
        make(CONFIG, OBSERVATION, {"arm": ACTION})
    sentence = "dreamer takes one action array; this environment's action_spec is a dict: flatten it"
    assert str(error.value) == sentence


def test_actions_of_nothing_are_refused_in_a_sentence():
    with pytest.raises(UserError) as error:
        make(CONFIG, OBSERVATION, specs.BoundedArray((0,), np.float32, -1.0, 1.0))
    assert str(error.value) == "dreamer needs actions of at least one number; this environment's have shape (0,)"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"worldmodel": RSSMConfig(blocks=7)}, "worldmodel.deter"),
        ({"behaviour": ActorCriticConfig(horizon=0)}, "behaviour.horizon"),
        ({"optim": OptimConfig(agc=0.0)}, "optim.agc"),
    ],
)
def test_each_part_is_checked_when_the_agent_is_made(changes, names):
    with pytest.raises(UserError, match=names):
        make(DreamerConfig(**changes), OBSERVATION, ACTION)


@pytest.mark.parametrize(
    ("check", "config", "field", "value", "sentence"),
    [
        (resolve, DreamerConfig(), "size", "20m", "unknown agent.size '20m'; did you mean '200m'?"),
        (make_stochastic, RSSMConfig(), "latent", "gaus", "unknown worldmodel.latent 'gaus'; did you mean 'gaussian'?"),
        (check, ActorCriticConfig(), "gradient", "mi", "unknown behaviour.gradient 'mi'; did you mean 'mix'?"),
    ],
)
def test_an_unknown_choice_is_told_where_nothing_checks_types(check, config, field, value, sentence):
    # The tests' type checks would refuse it sooner, but a program of one's own runs without them.
    object.__setattr__(config, field, value)
    with pytest.raises(UserError) as error:
        check(config)
    assert str(error.value) == sentence
