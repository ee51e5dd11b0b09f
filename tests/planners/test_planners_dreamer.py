"""With one candidate a node the soft tree is Dreamer's imagination; and Dreamer plans with what it has learned."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.agents import dreamer
from mbrl.agents.planning import with_planner
from mbrl.behaviours.actor_critic import ActorCritic, ActorCriticConfig
from mbrl.cli.main import main
from mbrl.core import normalise
from mbrl.core.distributions import OneHot, Squashed, TanhNormal
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, TimeStep
from mbrl.planners import PLANNERS, from_model, make
from mbrl.planners import tree as trees
from mbrl.planners.distil import cross_entropy, moment_match, value_ascent
from mbrl.planners.soft_tree import SoftTree, SoftTreeConfig

sys.path.append(str(Path(__file__).parents[1] / "behaviours"))
from exact_models import LINE, Line

ACTION = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
BEHAVIOUR = ActorCriticConfig(
    actor_layers=0, critic_layers=1, units=4, bins=5, entropy=0.0, normalise_returns=False, horizon=4, gamma=0.9,
    lam=1.0, through_policy=True, gradient="dynamics",
)


@pytest.mark.parametrize(("outer", "heat"), [(0.0, {"relative": False, "temperature": 1e8}), (-30.0, {})])
def test_one_candidate_is_dreamers_imagination(outer, heat: Any):
    """K = M = 1 without mixing, on the same noise: the same value and the same gradient of the actor."""
    behaviour, model, horizon = ActorCritic(BEHAVIOUR, Line(), ACTION), Line(), BEHAVIOUR.horizon
    params = behaviour.init(jax.random.key(0))
    params["actor"] = jax.tree.map(lambda x: x + 0.3, params["actor"])
    # A critic is born undecided; this one is not.
    params["critic"] = jax.tree.map(lambda x: x + 0.5 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params["critic"])
    # Its outer bins are worth 4.8e8 each. Divided by a spread of none, what is to cancel of such values does not.
    last = params["critic"]["Dense_0"]
    params["critic"]["Dense_0"] = last | {"bias": last["bias"] + outer * jnp.array([1.0, 0.0, 0.0, 0.0, 1.0])}
    start = jnp.array([[-0.8], [0.1], [0.5], [1.2]])
    policy = lambda params, latent: behaviour.act(params["actor"], latent)
    value = lambda params, latent: behaviour.value(params["critic"], latent).mean()[None]
    # Imagination does not clip its actions: bounds that do not bind.
    problem = from_model(model, 1, BEHAVIOUR.gamma, policy, value)._replace(low=-50.0, high=50.0)
    config = SoftTreeConfig(rounds=horizon, width=1, candidates=1, mix=False, refine=0, horizon=horizon, **heat)
    planner = SoftTree(config, problem)
    noise = trees.draw(jax.random.key(1), planner.shape, 4, 1)
    # What `imagine` draws for its actions: the exact model splits its key by step.
    keys = jax.random.split(jax.random.key(2), horizon)
    noise = noise._replace(action=jnp.stack([jax.random.normal(key, (4, 1)) for key in keys], 1))

    def searched(actor):
        grown = planner.grow({"model": LINE, "actor": actor, "critic": params["critic"]}, start, noise)
        alive = model.predict(LINE, start).discount.mean()
        return (alive * value_ascent(grown.worth.value[0, :, 0])).mean()

    def imagined(actor):
        dream = behaviour.imagine(LINE, params | {"actor": actor}, jax.random.key(2), start)
        loss, _ = behaviour.actor_loss(actor, dream, normalise.init())
        return loss.sum(0).mean()

    for one, other in zip(
        jax.tree.leaves(jax.jit(jax.value_and_grad(searched))(params["actor"])),
        jax.tree.leaves(jax.jit(jax.value_and_grad(imagined))(params["actor"])),
        strict=True,
    ):
        # An entry may be the small rest of large ones.
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-8 * np.abs(other).max() if outer == 0 else 5e-5)


@pytest.fixture(scope="module")
def tiny():
    sys.path.append(str(Path(__file__).parents[1] / "runner"))
    from tiny_run import CONFIG

    return dreamer.make(CONFIG.agent, specs.Array((3,), np.float32, name="observation"), ACTION)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("soft_tree", {"rounds": 1, "width": 2, "paths": 1, "refine": 1, "horizon": 2}),
        ("mppi", {"samples": 8, "elites": 4, "policy_samples": 2, "iterations": 2}),
    ],
)
def test_dreamer_plans_with_its_model(tiny, name, fields):
    """The action is the plan's, the memory has it, and an episode's first plan does not know the one before."""
    agent = with_planner(tiny, dataclasses.replace(PLANNERS[name].config, **fields))
    state = tiny.init(jax.random.key(0))
    zero = jnp.zeros(2)
    first = TimeStep(jnp.full(2, FIRST, jnp.int32), zero, zero + 1, jnp.ones((2, 3)))
    act: Any = jax.jit(agent.act, static_argnums=4)
    fresh = agent.initial(2)
    one = act(state, jax.random.key(1), fresh, first, "eval")
    assert one.action.shape == (2, 1)
    assert (abs(one.action) <= 1).all()
    np.testing.assert_array_equal(one.carry.memory.action, one.action)
    again = act(state, jax.random.key(1), one.carry._replace(memory=fresh.memory), first, "eval")
    np.testing.assert_array_equal(again.action, one.action)
    assert act._cache_size() == 1


def test_what_a_plan_imagined_can_be_looked_at(tiny):
    """The model's own expectation of what is seen, of every state of every candidate."""
    state, problem = tiny.init(jax.random.key(0)), tiny.problem
    planner = make(dataclasses.replace(PLANNERS["cem"].config, samples=4, elites=3, horizon=2), problem)
    memory, zero = tiny.initial(2), jnp.zeros(2)
    first = TimeStep(jnp.full(2, FIRST, jnp.int32), zero, zero + 1, jnp.ones((2, 3)))
    latent = tiny.act(state, jax.random.key(1), memory, first, "eval").carry.latent
    plan, _ = planner.plan(state.params, jax.random.key(2), latent, planner.initial(2))
    (seen,) = problem.look(state.params, plan.fan).values()
    assert seen.shape == (2, 3, 3, 3)
    (now,) = problem.look(state.params, latent).values()
    np.testing.assert_allclose(seen[:, :, 0], jnp.broadcast_to(now[:, None], (2, 3, 3)), rtol=1e-5)
    assert (abs(seen[:, :, 1:] - seen[:, :, :1]) > 1e-6).any()


def test_an_agent_without_a_model_is_refused(tiny):
    with pytest.raises(UserError, match="mppi needs a world model to plan in, which this agent lacks"):
        with_planner(tiny._replace(problem=None), PLANNERS["mppi"].config)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--planner", "mpi"], "unknown planner 'mpi'; did you mean 'mppi'?"),
        (["--planner.samples", "3"], "--planner.samples needs to know the planner: --planner and one of cem, gradient"),
        (["--planner", "mppi", "--planner.samplez", "3"], "did you mean '--planner.samples'?"),
        (["--planner", "mppi", "--planner.name=cem", "--planner", "mctx", "--planner.samples", "3"],
         "unknown option '--planner.samples'"),
        (["--planner", "mctx", "--planner=mppi", "--planner.samplez", "3"], "did you mean '--planner.samples'?"),
        (["--planner=mppi", "--planner.samples", "many"], "--planner.samples is 'many', but must be a whole number"),
    ],
)
def test_bad_words_are_one_sentence(words, said, capsys):
    assert main(["eval", "nowhere", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_planners_are_listed(capsys):
    assert main(["list", "planners"]) == 0
    assert capsys.readouterr().out.split() == sorted(PLANNERS)


def test_distillation_worked_by_hand():
    weights = jnp.array([[0.25, 0.75]])
    discrete = OneHot(jnp.log(jnp.array([[0.2, 0.8]])))
    found = cross_entropy(discrete, jnp.eye(2)[None], weights)
    np.testing.assert_allclose(found, [-(0.25 * np.log(0.2) + 0.75 * np.log(0.8))], rtol=1e-6)
    candidates = jnp.array([[[-0.5], [0.5]]])  # mean 0.25, deviation sqrt(3) / 4
    same = Squashed(jnp.full((1, 1), 0.25), jnp.full((1, 1), 3**0.5 / 4))
    np.testing.assert_allclose(moment_match(same, candidates, weights), 0.0, atol=1e-6)
    wider = same._replace(scale=2 * same.scale)
    np.testing.assert_allclose(moment_match(wider, candidates, weights), [np.log(2) + 1 / 8 - 1 / 2], rtol=1e-5)
    tanh = TanhNormal(jnp.arctanh(jnp.full((1, 1), 0.5)), jnp.full((1, 1), 0.1))
    with pytest.raises(UserError, match="moment_match needs a policy of continuous actions"):
        moment_match(discrete, candidates, weights)
    sure = jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(moment_match(tanh, candidates, sure, floor=0.1), 0.0, atol=1e-5)
    other = same._replace(loc=same.loc + 0.2)
    grads = jax.grad(lambda policy, c, w: cross_entropy(policy, c, w).sum(), (0, 1, 2))(other, candidates, weights)
    assert (abs(grads[0].loc) > 0).all()
    assert all((g == 0).all() for g in grads[1:])  # plans are data
