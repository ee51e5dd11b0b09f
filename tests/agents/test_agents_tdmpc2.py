"""TD-MPC2 as an agent, and that it learns: which of four tasks is on decides the sign of the best action."""

import dataclasses

import agent_checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agent_checks import ACTION, KEY
from dm_env import specs

from mbrl import planners
from mbrl.agents.planning import with_planner
from mbrl.agents.tdmpc2 import TDMPC2, TDMPC2Config, make, resolve
from mbrl.behaviours.temporal_difference import TemporalDifferenceConfig
from mbrl.core.errors import UserError
from mbrl.core.optim import OptimConfig
from mbrl.core.types import FIRST, LAST, MID, Sequence, TimeStep
from mbrl.planners import PLANNERS
from mbrl.planners.shooting import ShootingConfig
from mbrl.worldmodels.latent_td import LatentTD, LatentTDConfig
from mbrl.worldmodels.sizes import TD_SIZES

PLANNER = ShootingConfig(samples=16, horizon=2, iterations=2, elites=6, policy_samples=2)
FAST = OptimConfig(learning_rate=3e-3, optimiser="adam", clip=20.0, agc=None, eps=1e-8, warmup=0)
CONFIG = TDMPC2Config(
    size="nano",
    worldmodel=LatentTDConfig(latent=32, units=32, encoder_units=32, decoder_layers=1, task_dim=32),
    behaviour=TemporalDifferenceConfig(units=32, layers=1, gamma=0.5, critics=3),
    planner=PLANNER,
    optim=FAST,
    policy_optim=FAST,
)
SIGNS = np.array([1.0, -1.0, -1.0, 1.0], np.float32)
OBSERVATION = {"pos": specs.Array((2,), np.float32), "task": specs.DiscreteArray(4, np.int32)}
AGENT = TDMPC2(CONFIG, OBSERVATION, ACTION)

chex.clear_trace_counter()
init = jax.jit(AGENT.init)
update = jax.jit(chex.assert_max_traces(AGENT.update, n=1))
act = jax.jit(chex.assert_max_traces(AGENT.act, n=3), static_argnums=4)


def sequence(seed=0, blind=False, batch=32):
    """Return ``[4, B]`` steps in tasks of which each pays its sign times the action; the first entry meets a border."""
    rng, lead = np.random.default_rng(seed), (4, batch)
    step_type = np.full(lead, MID, np.int32)
    step_type[1, 0], step_type[2, 0] = LAST, FIRST
    task = np.broadcast_to(rng.integers(0, 4, batch), lead)
    action = rng.uniform(-1, 1, (*lead, 1))
    reward = np.zeros(lead)
    reward[1:] = SIGNS[task[:-1]] * action[:-1, :, 0]
    observation = {
        "pos": jnp.zeros((*lead, 2)),
        "task": jnp.asarray(0 * task if blind else task, jnp.int32),
    }
    going = jnp.asarray(step_type != LAST, jnp.float32)
    timestep = TimeStep(jnp.asarray(step_type), jnp.asarray(reward, jnp.float32), going, observation)
    return Sequence(timestep, jnp.asarray(action, jnp.float32), ())


UPDATES = 400
SEEN = jax.tree.map(lambda x: x[0], sequence(999).timestep)


@pytest.fixture(scope="module")
def state():
    return init(KEY)


class TestLearner(agent_checks.Learner):
    name, config, gamma, specs = "tdmpc2", CONFIG, 0.5, (OBSERVATION, ACTION)
    update, sequence = staticmethod(update), staticmethod(sequence)


def trained(state, blind):
    for seed in range(UPDATES):
        state = update(state, jax.random.key(seed), sequence(seed, blind)).state
    return state


def earned(state, action_of=act):
    """Return what the actions of "eval" earn in 32 states, 1 at best."""
    action = action_of(state, KEY, AGENT.initial(32), SEEN, "eval").action
    return float((SIGNS[SEEN.observation["task"]] * np.asarray(action)[:, 0]).mean())


@pytest.fixture(scope="module")
def solved(state):
    return trained(state, blind=False)


def test_tasks_are_learned(solved):
    assert earned(solved) > 0.7  # eight other seeds come to .87 at least


def test_tasks_are_not_learned_by_whom_they_are_not_told(state):
    assert abs(earned(trained(state, blind=True))) < 0.5


def test_a_plan_whose_actions_are_dreamt_in_reverse_is_noticed(solved, monkeypatch):
    imagine = LatentTD.imagine
    reverse = lambda s, p, k, z, policy, h: imagine(s, p, k, z, lambda latent, key: -policy(latent, key), h)
    monkeypatch.setattr(LatentTD, "imagine", reverse)
    assert earned(solved, jax.jit(TDMPC2(CONFIG, OBSERVATION, ACTION).act, static_argnums=4)) < -0.5


def test_the_problem_is_worth_what_every_critic_says_of_the_policys_mode(state):
    """All critics, of the mean action, from the latent on; a step is the model's own."""
    wave = lambda x: x + 0.1 * np.sin(np.arange(x.size, dtype=np.float32)).reshape(x.shape)
    latent, params = jax.tree.map(wave, (AGENT.model.initial(2), state.params))  # no head is zero any more
    features = AGENT.model.features(latent)
    mode = jnp.tanh(AGENT.behaviour.act(params["actor"], latent).loc)
    expected = AGENT.behaviour.values(params["critic"], features, mode)
    found = AGENT.problem.value(params, latent)
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    other = AGENT.behaviour.values(params["critic"], features, -jnp.ones_like(mode))
    assert (abs(found - other) > 1e-6).any()
    policy = AGENT.problem.policy(params, latent)
    np.testing.assert_array_equal(policy.mode(), mode)
    assert (AGENT.problem.discount, AGENT.problem.actions, AGENT.problem.discrete) == (0.5, 1, False)
    arrival = AGENT.problem.step(params, KEY, latent, mode)
    after = AGENT.model.imagine(params["model"], KEY, latent, lambda *_: mode, 1).latent
    for ours, theirs in zip(jax.tree.leaves(arrival.latent), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(ours, theirs[1], rtol=1e-6)
    reward = AGENT.model.predict(params["model"], arrival.latent).reward.mean()
    np.testing.assert_allclose(arrival.reward, reward, rtol=1e-6)


def test_slow_critics_follow_by_a_hundredth(state):
    new = update(state, KEY, sequence()).state
    mix = lambda slow, fast: 0.99 * slow + 0.01 * fast
    chex.assert_trees_all_close(new.slow_critic, jax.tree.map(mix, state.slow_critic, new.params["critic"]), atol=1e-7)


def test_the_encoder_steps_at_its_own_rate(state):
    # Adam's first step is the rate, whatever the gradient: .3 of 3e-3 in the encoder, 3e-3 in all else.
    new = update(state, KEY, sequence()).state.params
    step = jax.tree.map(lambda a, b: float(abs(a - b).max()), new, state.params)
    for name, part in step["model"].items():
        most = max(jax.tree.leaves(part))
        assert most == pytest.approx(9e-4 if name == "encoder" else 3e-3, rel=0.02) or (most, name) == (0, "task")
    assert max(jax.tree.leaves(step["actor"])) == pytest.approx(3e-3, rel=0.02)


@pytest.mark.parametrize("mode", ["train", "eval", "random"])
def test_acting_forgets_at_first(solved, mode):
    seen = SEEN._replace(step_type=jnp.full(32, MID, jnp.int32).at[0].set(FIRST))
    fresh = AGENT.initial(32)
    used = jax.tree.map(lambda x: x + 0.5, fresh)
    one, other = act(solved, KEY, fresh, seen, mode), act(solved, KEY, used, seen, mode)
    assert abs(one.action).max() <= 1
    assert one.context == ()
    np.testing.assert_array_equal(one.carry.action, one.action)
    np.testing.assert_array_equal(one.carry.latent.state, other.carry.latent.state)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
    assert (one.carry.latent.reward[1:] != other.carry.latent.reward[1:]).any()


def test_training_explores_and_evaluation_acts_on_the_mean(solved):
    told = {mode: planner.config for mode, planner in AGENT.planners.items()}
    assert (told["train"].choose, told["train"].noise) == ("sample", True)
    assert (told["eval"].choose, told["eval"].noise) == ("mean", False)
    action = {mode: act(solved, KEY, AGENT.initial(32), SEEN, mode).action for mode in ("train", "eval")}
    # The noise's deviation is at least .05, of which the mean is .04.
    assert abs(action["train"] - action["eval"]).mean() > 0.04


def test_another_planner_works_on_it(solved):
    config = dataclasses.replace(PLANNERS["cem"].config, samples=16, iterations=1, elites=4, horizon=1)
    agent = with_planner(make(CONFIG, OBSERVATION, ACTION), config)
    output = jax.jit(agent.act, static_argnums=4)(solved, KEY, agent.initial(32), SEEN, "eval")
    assert float((SIGNS[SEEN.observation["task"]] * np.asarray(output.action)[:, 0]).mean()) > 0.3
    np.testing.assert_array_equal(output.carry.memory.action, output.action)


def test_diagnosis(solved):
    said = jax.jit(AGENT.diagnose, static_argnums=3)(solved, KEY, sequence(5), 2)
    assert said.observation["pos"].shape == said.open_loop_observation["pos"].shape == (4, 32, 2)
    assert set(said.observation) == {"pos"}
    for name in ("reward", "discount", "value", "imagined_return", "open_loop_reward", "open_loop_discount"):
        assert getattr(said, name).shape == (4, 32)
    # Rewards are those of the actions that were taken; at FIRST there is none, and none in the first step of all.
    real = np.asarray(sequence(5).timestep.reward)
    assert np.corrcoef(said.reward[1:, 1:].ravel(), real[1:, 1:].ravel())[0, 1] > 0.9
    np.testing.assert_allclose(said.reward[2, 0], 0, atol=1e-6)
    np.testing.assert_allclose(said.reward[0], 0, atol=1e-6)


def test_sizes_are_those_of_the_paper():
    for size, millions in {"1m": 1, "19m": 19}.items():
        config = TDMPC2Config(size=size)
        agent = TDMPC2(config, {"pos": specs.Array((39,), np.float32)}, specs.BoundedArray((6,), np.float32, -1, 1))
        shapes = jax.eval_shape(agent.init, KEY).params
        model = {name: part for name, part in shapes["model"].items() if name not in ("decoder", "discount")}
        counted = sum(leaf.size for leaf in jax.tree.leaves([model, shapes["actor"], shapes["critic"]]))
        assert counted == pytest.approx(1e6 * millions, rel=0.25)


def test_a_width_that_is_set_stays():
    config = resolve(TDMPC2Config(size="5m", worldmodel=LatentTDConfig(latent=64)))
    assert (config.worldmodel.latent, config.worldmodel.units) == (64, 512)
    assert config.behaviour.critics == TD_SIZES["5m"].critics == 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder_rate": -1.0}, "agent.encoder_rate must be at least 0; got -1.0"),
        ({"worldmodel": LatentTDConfig(latent=24)},
         "worldmodel.latent must be a multiple of twice worldmodel.group (8); got 24, the nearest is 32"),
        ({"behaviour": TemporalDifferenceConfig(critics=1)}, "behaviour.critics must be at least 2; got 1"),
        ({"planner": ShootingConfig(elites=600)}, "planner mppi: elites must be at most samples (512); got 600"),
        ({"optim": OptimConfig(clip=0.0)}, "optim.clip must be above 0 and finite, not 0.0"),
    ],
)
def test_bad_configs_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        make(dataclasses.replace(CONFIG, **changes), OBSERVATION, ACTION)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("observation", "action", "sentence"),
    [
        (OBSERVATION, {"arm": ACTION},
         "tdmpc2 takes one action array; this environment's action_spec is a dict: flatten it"),
        (OBSERVATION, specs.DiscreteArray(3),
         "tdmpc2 takes continuous actions only and this environment has 3 discrete ones; take another agent, such as "
         "dreamer"),
        ({}, ACTION, "the observation is an empty dict; a world model needs at least one vector or image"),
        ({"task": specs.DiscreteArray(3)}, ACTION,
         "the observation holds nothing but 'task'; tdmpc2 needs vectors or images beside it"),
        ({"pos": OBSERVATION["pos"], "task": specs.Array((), np.int32)}, ACTION,
         "observation 'task' must be a DiscreteArray, a whole number from 0 up of which it is known how many there are"
         "; got Array(shape=(), dtype=dtype('int32'), name=None)"),
    ],
)
def test_tasks_it_cannot_take_are_refused_in_a_sentence(observation, action, sentence):
    with pytest.raises(UserError) as error:
        make(CONFIG, observation, action)
    assert str(error.value) == sentence


def test_noise_is_of_continuous_actions_alone():
    problem = AGENT.problem._replace(discrete=True, policy=None)
    config = dataclasses.replace(PLANNERS["random"].config, noise=True)
    with pytest.raises(UserError, match="noise must be false"):
        planners.make(config, problem)
