"""What planners are given that is not as it should be: bad input is one sentence; a model that runs away fools none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import STARTS, Table, line, planned, small

from mbrl.agents.planning import whole
from mbrl.core.errors import UserError
from mbrl.planners import PLANNERS, make, with_cost
from mbrl.planners.base import Arrival


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_a_model_that_runs_away_misleads_nobody(name):
    """Rightwards beyond .2 the reward is no number, or infinite: from -.6 a finite way is taken instead."""
    good = line()
    for bad in (jnp.nan, jnp.inf):
        def step(params, key, latent, action, bad=bad):
            arrival = good.step(params, key, latent, action)
            return arrival._replace(reward=jnp.where(action[..., 0] > 0.2, bad, arrival.reward))

        plan, carry = planned(make(small(name), good._replace(step=step)), STARTS)
        known = plan.action, plan.weights, plan.value, carry if plan.sequence is None else carry.sequence
        assert all(np.isfinite(x).all() for x in known), bad
        np.testing.assert_allclose(plan.weights.sum(1), 1.0, atol=1e-5)
        counted = plan.weights >= plan.weights.max(1, keepdims=True)
        assert (jnp.where(counted[..., None], plan.candidates, -1.0) <= 0.2).all(), bad
        assert (plan.action <= 0.2).all(), bad
        assert (abs(plan.value) < 10).all(), bad
        # The others go left, where nothing is wrong, as far as they would.
        np.testing.assert_allclose(plan.action[1:, 0], -0.95 * STARTS[1:, 0], atol=0.35 if name == "mctx" else 0.12)


def test_a_policy_in_a_latent_that_is_no_number_harms_no_plan():
    """Beyond a first step to the right of .2 latents are no numbers, nor are the policy's actions there."""
    def step(params, key, latent, action):
        arrival = line().step(params, key, latent, action)
        gone = action[..., :1] > 0.2
        return arrival._replace(latent=jnp.where(gone, jnp.nan, arrival.latent))

    for name, fields in (("mppi", {"elites": 60, "policy_samples": 8}), ("soft_tree", {}), ("mctx", {})):
        plan, carry = planned(make(small(name, **fields), line()._replace(step=step)), STARTS)
        known = plan.action, plan.weights, plan.value, carry if plan.sequence is None else carry.sequence
        assert all(np.isfinite(x).all() for x in known), name
        assert (plan.action <= 0.2).all(), name


def test_an_unguarded_climb_does_not_stay_where_nothing_is_known():
    """From .15 on the reward is no number, and there the slope leads."""
    def step(params, key, latent, action):
        arrival = line().step(params, key, latent, action)
        return arrival._replace(reward=jnp.where(arrival.latent[..., 0] > 0.15, jnp.nan, arrival.reward))

    problem = line(value=lambda s: -2.0 * (s - 1.0) ** 2)._replace(step=step)
    plan, _ = planned(make(small("soft_tree", guard=False, refine=8), problem), jnp.zeros((1, 1)))
    assert plan.value[0] > -10


def test_elites_without_a_finite_return_count_nothing():
    """Of 64 candidates hardly half stay left of .2, and 60 are to be elites."""
    def step(params, key, latent, action):
        arrival = line().step(params, key, latent, action)
        return arrival._replace(reward=jnp.where(action[..., 0] > 0.2, jnp.nan, arrival.reward))

    plan, _ = planned(make(small("cem", elites=60, horizon=1), line()._replace(step=step)), STARTS)
    assert (plan.value > -10).all()
    assert (jnp.where(plan.weights[..., None] > 0, plan.candidates, 0.0) <= 0.2).all()


@pytest.mark.parametrize("refine", [0, 3])
def test_a_tree_of_a_model_that_knows_nothing_is_finite(refine):
    """No candidate is any better than another, and what is done is within the bounds."""
    def step(params, key, latent, action):
        arrival = line().step(params, key, latent, action)
        return Arrival(arrival.latent * jnp.nan, arrival.reward * jnp.nan, arrival.going)

    problem = line()._replace(step=step, low=0.1)
    plan, carry = planned(make(small("soft_tree", refine=refine), problem), STARTS)
    assert all(np.isfinite(x).all() for x in (plan.action, plan.weights, plan.value, carry.sequence))
    assert ((plan.action >= 0.1) & (plan.action <= 1.0)).all()
    np.testing.assert_allclose(plan.weights.sum(1), 1.0, atol=1e-5)


BAD = [
    ("mctx", {"least_range": -1.0}, {}, "planner mctx: least_range must be at least 0; got -1.0"),
    ("soft_tree", {}, {"value": None}, "soft_tree needs a value, which this model does not bring; random, cem"),
    ("mctx", {}, {"policy": None, "value": None}, "mctx needs a policy and a value"),
    ("mppi", {}, {"policy": None}, "mppi needs a policy for its policy_samples (4)"),
    ("cem", {}, {"high": np.inf}, "cem needs finite action bounds, low below high; they are -1.0 and inf"),
    ("cem", {}, {"low": [-1.0, 1.0]}, "action bounds must be numbers or one for each of 1 actions"),
    ("cem", {}, {"discount": 1.5}, "must lie in [0, 1]; got 1.5"),
    ("gradient", {}, {"discrete": True}, "gradient needs continuous actions"),
    ("soft_tree", {"candidates": 0}, {}, "planner soft_tree: candidates must be between 1 and 4096; got 0"),
    ("soft_tree", {"width": -1}, {}, "planner soft_tree: width must be between 1 and 4096; got -1"),
    ("soft_tree", {"temperature": 0.0}, {}, "planner soft_tree: temperature must be above 0 and finite; got 0.0"),
    ("soft_tree", {"rounds": 4}, {}, "planner soft_tree: horizon must be between 4 and 1000; got 3"),
    ("soft_tree", {"paths": 5}, {}, "planner soft_tree: paths must be at most width (4); got 5"),
    ("soft_tree", {"root_candidates": 3}, {}, "root_candidates must be between width (4)"),
    ("soft_tree", {"choose": "mean"}, {"discrete": True}, "choose must be best; got mean"),
    ("mppi", {"horizon": 0}, {}, "planner mppi: horizon must be between 1 and 1000; got 0"),
    ("mppi", {"temperature": np.nan}, {}, "planner mppi: temperature must be at least 0; got nan"),
    ("mppi", {"elites": 65}, {}, "planner mppi: elites must be at most samples (64); got 65"),
    ("cem", {"max_std": 0.01}, {}, "planner cem: max_std must be finite and at least min_std (0.05); got 0.01"),
    ("random", {"policy_samples": 4}, {"discrete": True}, "of discrete actions policy_samples and kept must be 0"),
    ("icem", {"colour": 11.0}, {}, "planner icem: colour must be between 0 and 10; got 11.0"),
    ("random", {"choose": "mean"}, {"discrete": True}, "choose best or sample; got 0, 0 and mean"),
    ("mctx", {}, {"discrete": True, "value": None}, "random plans without"),
    ("mctx", {"simulations": 0}, {}, "planner mctx: simulations must be between 1 and 10000; got 0"),
    ("cem", {}, {"low": "a"}, "action bounds must be numbers; they are a and 1.0"),
    ("mppi", {"samples": 10**9}, {}, "planner mppi: samples must be between 1 and 100000; got 1000000000"),
    ("gradient", {"starts": 10**6}, {}, "planner gradient: starts must be between 1 and 4096; got 1000000"),
    ("soft_tree", {"refine": 10**6}, {}, "planner soft_tree: refine must be between 0 and 1000; got 1000000"),
]


@pytest.mark.parametrize(("name", "fields", "change", "said"), BAD)
def test_bad_input_is_one_sentence(name, fields, change, said):
    config = dataclasses.replace(small(name), **fields)
    with pytest.raises(UserError) as error:
        make(config, line()._replace(**change))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "field", "value", "said"),
    [
        ("soft_tree", "choose", "bst", "unknown choose of planner soft_tree 'bst'; did you mean 'best'"),
        ("mctx", "scale_by", "node", "unknown scale_by of planner mctx 'node'"),
        ("soft_tree", "through", "all", "unknown through of planner soft_tree 'all'"),
        ("mppi", "weighting", "soft", "unknown weighting of planner mppi 'soft'; did you mean 'softmax'"),
        ("soft_tree", "width", 2.5, "planner soft_tree: width must be a whole number; got 2.5"),
        ("soft_tree", "width", True, "planner soft_tree: width must be a whole number; got True"),
        ("soft_tree", "depth", 1.5, "planner soft_tree: depth must be a whole number; got 1.5"),
    ],
)
def test_a_field_of_another_kind_is_one_sentence(name, field, value, said):
    config = small(name)
    object.__setattr__(config, field, value)  # past what checks types in tests alone
    with pytest.raises(UserError) as error:
        make(config, line())
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (lambda _, a: a, "it returned an array of shape (1,)"),
        (lambda *_: (1.0, 2.0), "something that is no array"),
        (lambda _: 1.0, "takes 1 positional argument but 2 were given"),
        (lambda *_: "dear", "it returned"),
        (lambda *_: 1j * jnp.zeros(()), "it returned one of complex64"),
    ],
)
def test_a_cost_must_be_a_number(cost, said):
    planner = make(small("cem"), with_cost(line(), cost))
    with pytest.raises(UserError, match="one number for one latent and one action") as error:
        planner.plan(None, jax.random.key(0), STARTS, planner.initial(3))
    assert said in str(error.value)


@pytest.mark.parametrize("name", sorted(set(PLANNERS) - {"mctx"}))
def test_a_line_is_not_crossed_even_at_the_end_of_a_plan(name):
    """From .2 the line's critic draws to 0, here to .9; a cost of what lies beyond .4 counts in the last step too.

    mctx looks several steps ahead whatever it is told, so it has no last step to be tested by itself.
    """
    problem = line(value=lambda s: -20.0 * jnp.square(s - 0.9))
    dear = with_cost(problem, lambda latent, _: jnp.where(latent[0] > 0.4, 1e3, 0.0))
    fields = {"rounds": 1, "horizon": 1, "width": 16, "candidates": 16} if name == "soft_tree" else {"horizon": 1}
    start = jnp.array([[0.2]])
    free, kept = (planned(make(small(name, **fields), p), start)[0].action[0, 0] for p in (problem, dear))
    assert free > 0.3
    assert kept <= 0.2 + 1e-6


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_a_value_without_its_critics_is_refused(name):
    """Of [B, K] the mean over critics would be one over environments."""
    planner = make(small(name), line()._replace(value=lambda _, latent: -2 * latent[..., 0] ** 2))
    with pytest.raises(UserError, match=r"the value must be \[E, 3"):
        planner.plan(None, jax.random.key(0), STARTS, planner.initial(3))


@pytest.mark.parametrize("name", ["mppi", "mctx", "soft_tree"])
def test_a_policy_must_be_a_distribution(name):
    planner = make(small(name), line()._replace(policy=lambda _, latent: -0.3 * latent))
    with pytest.raises(UserError, match="the policy must return a Squashed, a TanhNormal or a OneHot; it is "):
        planner.plan(None, jax.random.key(0), STARTS, planner.initial(3))


@pytest.mark.parametrize("name", ["mctx", "soft_tree"])
def test_of_discrete_actions_all_are_candidates(name):
    """With the planner's defaults, as `mbrl eval RUN --planner` has them."""
    problem = Table().problem()
    make(whole(PLANNERS[name].config, problem), problem)


def test_an_unknown_planner_is_named():
    with pytest.raises(UserError, match="unknown planner 'mpi'; did you mean 'mppi'"):
        make(dataclasses.replace(small("mppi"), name="mpi"), line())


def test_a_config_of_another_planner_is_refused():
    with pytest.raises(UserError, match="planner mctx is described by a MCTSConfig; got a ShootingConfig"):
        make(dataclasses.replace(small("mppi"), name="mctx"), line())
