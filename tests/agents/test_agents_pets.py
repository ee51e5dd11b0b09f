"""PETS as an agent, and how it scores: the mean over particles that members of an ensemble move."""

import dataclasses
import math

import agent_checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agent_checks import ACTION, KEY, OBSERVATION
from agent_checks import ensembles_sequence as sequence
from dm_env import specs

from mbrl.agents.pets import PETS, PETSConfig, make
from mbrl.agents.planning import particle_problem, particles_of, with_planner
from mbrl.core.errors import UserError
from mbrl.core.optim import OptimConfig
from mbrl.core.types import FIRST, MID, TimeStep
from mbrl.planners import PLANNERS
from mbrl.planners.shooting import ShootingConfig, roll
from mbrl.worldmodels.ensemble import Arrival, Ensemble, EnsembleConfig

PLANNER = ShootingConfig(
    "cem", samples=16, horizon=3, iterations=2, elites=4, policy_samples=0, weighting="alike", max_std=0.5
)
CONFIG = PETSConfig(worldmodel=EnsembleConfig(members=3, layers=1, units=6, beta=0.0), planner=PLANNER, particles=6)
AGENT = PETS(CONFIG, OBSERVATION, ACTION)
GOLDEN = {"loss/observation": 11.6929216, "loss/reward": 1.5249810, "model/error": 1.0965006}

chex.clear_trace_counter()
init = jax.jit(AGENT.init)
update = jax.jit(chex.assert_max_traces(AGENT.update, n=1))
act = jax.jit(chex.assert_max_traces(AGENT.act, n=3), static_argnums=4)


@pytest.fixture(scope="module")
def state():
    return init(KEY)


class TestLearner(agent_checks.EnsembleLearner):
    name, config, gamma = "pets", CONFIG, 1.0
    update, sequence = staticmethod(update), staticmethod(sequence)
    golden = GOLDEN


@pytest.mark.parametrize("mode", ["train", "eval", "random"])
def test_acting_forgets_at_first(state, mode):
    fresh, given = AGENT.initial(2), sequence()
    seen = jax.tree.map(lambda x: x[0], given.timestep)._replace(step_type=jnp.array([FIRST, MID], jnp.int32))
    used = jax.tree.map(lambda x: x + 0.5, fresh)
    one, other = act(state, KEY, fresh, seen, mode), act(state, KEY, used, seen, mode)
    assert abs(one.action).max() <= 1
    np.testing.assert_array_equal(one.carry.action, one.action)
    np.testing.assert_array_equal(one.context.observation, given.context.observation[0])
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
    # Of the other environment the plan before counts: what was begun with decides where CEM looks.
    assert one.context.reward[1] != other.context.reward[1]
    assert mode == "random" or (one.action[1] != other.action[1]).all()


def test_training_and_evaluation_plan_alike(state):
    seen = jax.tree.map(lambda x: x[0], sequence().timestep)
    actions = [act(state, KEY, AGENT.initial(2), seen, mode).action for mode in ("train", "eval", "random")]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert (actions[0] != actions[2]).all()


def test_a_plan_is_begun_with_the_one_before(state):
    seen = jax.tree.map(lambda x: x[0], sequence().timestep)
    first = act(state, KEY, AGENT.initial(2), seen, "eval")
    assert first.carry.plan.known.tolist() == [[1, 1, 0]] * 2
    plan, _ = jax.jit(AGENT.planner.plan)(state.params, jax.random.split(KEY)[1], first.carry.latent, first.carry.plan)
    cold, _ = jax.jit(AGENT.planner.plan)(
        state.params, jax.random.split(KEY)[1], first.carry.latent, AGENT.planner.initial(2)
    )
    assert (plan.action != cold.action).all()


def beliefs(monkeypatch, reward, going=lambda *_: 0.0):
    """Let member k believe in the reward ``reward(action, k)`` and that it goes on with logit ``going(action, k)``."""

    def arrive(self, params, observation, action):
        del self, params
        each = lambda say: jnp.stack([0 * one + say(one, k) for k, one in enumerate(action[..., 0])])
        mean = jnp.concatenate([jnp.zeros_like(observation), each(reward)[..., None]], -1)
        return Arrival(mean, jnp.full_like(mean, 1e-6), each(going))

    monkeypatch.setattr(Ensemble, "_arrive", arrive)


def of_members(*numbers):
    """Return what each member believes, whatever is done."""
    return lambda _, k: numbers[k]


MODEL = Ensemble(EnsembleConfig(members=2, layers=1, units=4), specs.Array((1,), np.float32), ACTION)
TOLD = {"model": MODEL.init(KEY)}


def returned(keep, particles=4, horizon=2, key=KEY, gamma=0.5):
    """Return what one candidate's sequence of zeros is expected to bring from one place."""
    problem = particle_problem(MODEL, gamma, keep=keep)
    start, keys = particles_of(MODEL.initial(1), particles), jax.random.split(key, horizon)
    return float(roll(problem, TOLD, keys, start, jnp.zeros((1, 1, horizon, 1)))[0][0, 0])


def test_a_candidate_is_worth_the_mean_of_its_particles_returns(monkeypatch):
    # One member: 1 a step, and it goes on. The other: 3, and it ends with probability 3/4.
    beliefs(monkeypatch, of_members(1.0, 3.0), of_members(40.0, -math.log(3)))
    ours, theirs = 1 + 0.5 + 0.25, 3 + 0.5 * 3 / 4 + 0.25 * 3 / 16
    assert returned(keep=True, horizon=3) == pytest.approx((ours + theirs) / 2, rel=1e-5)
    # The product of mean rewards and mean chances, 2 + .5 * 2 * 5/8 + ..., would be something else.
    assert returned(keep=True, horizon=3) != pytest.approx(2 + 0.5 * 2 * 0.625 + 0.25 * 2 * 0.625**2, rel=0.01)


def test_dealt_anew_a_particle_may_meet_both_members(monkeypatch):
    beliefs(monkeypatch, of_members(1.0, 3.0), of_members(40.0, -40.0))
    # Kept: (1 + .5) and (3 + nothing). Dealt anew, who lasts (half) earns 1 or 3 in the second step.
    assert returned(keep=True) == pytest.approx((1.5 + 3) / 2, rel=1e-5)
    found = [returned(keep=False, particles=2, key=jax.random.key(seed)) for seed in range(40)]
    assert {round(one, 4) for one in found} == {(1.5 + 3) / 2, (1 + 0.5 * 3 + 3) / 2}


def test_certain_ends_leave_nothing_to_earn(monkeypatch):
    beliefs(monkeypatch, of_members(1.0, 3.0), of_members(-200.0, -200.0))
    assert returned(keep=True, horizon=4) == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("members", [(-0.6, 0.8), (0.3, 0.3)])
def test_the_action_is_what_all_members_together_think_best(monkeypatch, keep, members):
    # Each thinks best what is its own; the mean of -(a - b_k)² is best at the mean of b.
    beliefs(monkeypatch, lambda action, k: -jnp.square(action - members[k]))
    planner = ShootingConfig(
        "cem", samples=64, horizon=2, iterations=8, elites=8, policy_samples=0, weighting="alike", min_std=0.0
    )
    config = PETSConfig(worldmodel=MODEL.config, planner=planner, particles=4, keep_member=keep)
    agent = PETS(config, specs.Array((1,), np.float32), ACTION)
    timestep = TimeStep(jnp.array([FIRST, MID], jnp.int32), jnp.zeros(2), jnp.ones(2), jnp.zeros((2, 1)))
    action = jax.jit(agent.act, static_argnums=4)(agent.init(KEY), KEY, agent.initial(2), timestep, "eval").action
    np.testing.assert_allclose(action, np.mean(members), atol=0.02)


@pytest.mark.parametrize(("batch", "particles", "candidates"), [(1, 2, 1), (3, 6, 2)])
def test_particles_have_the_shapes_of_any_latent(batch, particles, candidates):
    problem = particle_problem(MODEL, 1.0, keep=False)
    start, actions = particles_of(MODEL.initial(batch), particles), jnp.zeros((batch, candidates, 4, 1))
    total, fan = jax.eval_shape(lambda: roll(problem, TOLD, jax.random.split(KEY, 4), start, actions))
    assert total.shape == (batch, candidates)
    assert fan.latent.observation.shape == (batch, candidates, 5, particles, 1)
    assert fan.weight.shape == (batch, candidates, 5, particles)


def test_another_planner_works_on_it(state):
    config = dataclasses.replace(PLANNERS["icem"].config, samples=16, iterations=1, elites=4, kept=2, horizon=2)
    agent = with_planner(make(CONFIG, OBSERVATION, ACTION), config)
    seen = jax.tree.map(lambda x: x[0], sequence().timestep)
    output = jax.jit(agent.act, static_argnums=4)(state, KEY, agent.initial(2), seen, "eval")
    np.testing.assert_array_equal(output.carry.memory.action, output.action)
    with pytest.raises(UserError, match="needs a policy"):
        with_planner(make(CONFIG, OBSERVATION, ACTION), PLANNERS["mppi"].config)


def test_diagnosis(state):
    given, seen = sequence(5), 2
    said = jax.jit(AGENT.diagnose, static_argnums=3)(state, KEY, given, seen)
    shapes = {name: jax.tree.map(jnp.shape, getattr(said, name)) for name in said._fields}
    observed = {"grid": (5, 2, 2, 2), "pos": (5, 2, 2)}
    assert shapes.pop("observation") == shapes.pop("open_loop_observation") == observed
    assert set(shapes.values()) == {(5, 2)}
    assert not said.value.any()
    for name, real in given.timestep.observation.items():
        np.testing.assert_allclose(said.observation[name], real, rtol=1e-4, atol=1e-5)
        assert (said.open_loop_observation[name][seen:] != real[seen:]).all()


def test_what_is_imagined_is_what_a_plan_promises(monkeypatch):
    beliefs(monkeypatch, of_members(2.0, 2.0, 2.0), of_members(40.0, 40.0, 40.0))
    said = PETS(CONFIG, OBSERVATION, ACTION).diagnose(init(KEY), KEY, sequence(), 2)
    np.testing.assert_allclose(said.imagined_return, 3 * 2, rtol=1e-5)  # of the horizon, and nothing beyond


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"worldmodel": EnsembleConfig(members=0)}, "worldmodel.members"),
        ({"optim": OptimConfig(agc=0.0)}, "optim.agc"),
        ({"particles": 7}, "agent.particles must be a multiple of agent.worldmodel.members .3.; got 7"),
        ({"particles": 0}, "agent.particles"),
        ({"gamma": 1.5}, "discount"),
        ({"planner": ShootingConfig()}, "set policy_samples to 0"),
    ],
)
def test_each_part_is_checked_when_the_agent_is_made(changes, names):
    with pytest.raises(UserError, match=names):
        make(dataclasses.replace(CONFIG, **changes), OBSERVATION, ACTION)


def test_specs_that_it_cannot_take_are_refused_in_a_sentence():
    with pytest.raises(UserError, match="pets takes one action array"):
        make(CONFIG, OBSERVATION, {"arm": ACTION})
    with pytest.raises(UserError, match="continuous actions only"):
        make(CONFIG, OBSERVATION, specs.DiscreteArray(3))
