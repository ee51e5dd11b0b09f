"""Dreamer with a planner: what it learns from plans, by hand; what is kept of them, and how long."""

import dataclasses
from functools import partial

import agent_checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from agent_checks import ACTION, KEY, noise, start_of_update, unlike
from dm_env import specs

from mbrl.agents import distilling
from mbrl.agents.distilling import DistilConfig
from mbrl.agents.dreamer import Dreamer, DreamerConfig, make
from mbrl.agents.planned_dreamer import Kept, PlannedDreamer
from mbrl.agents.planning import with_planner
from mbrl.agents.searching import NEVER, Target, exploring, settled
from mbrl.behaviours.actor_critic import ActorCriticConfig
from mbrl.core.distributions import OneHot
from mbrl.core.errors import UserError
from mbrl.core.optim import OptimConfig
from mbrl.core.types import FIRST, MID, Sequence
from mbrl.planners import PLANNERS, NoPlannerConfig
from mbrl.worldmodels.rssm import RSSMConfig

SMALL = {
    "random": {"samples": 6, "horizon": 2, "elites": 3},
    "cem": {"samples": 6, "horizon": 2, "elites": 3, "iterations": 2},
    "icem": {"samples": 6, "horizon": 2, "elites": 3, "kept": 2, "iterations": 2},
    "mppi": {"samples": 6, "horizon": 2, "elites": 3, "policy_samples": 2, "iterations": 2},
    "gradient": {"starts": 3, "horizon": 2, "iterations": 2},
    "mctx": {"simulations": 3, "candidates": 3},
    "soft_tree": {"rounds": 2, "width": 3, "candidates": 3, "paths": 2, "refine": 1, "horizon": 2},
}
PLANNER = {name: dataclasses.replace(PLANNERS[name].config, **fields) for name, fields in SMALL.items()}
WIDTHS = RSSMConfig(deter=8, hidden=6, units=6, stoch=3, classes=4, blocks=2, bins=11)
CONFIG = DreamerConfig(
    worldmodel=dataclasses.replace(WIDTHS, encoder_layers=1, decoder_layers=1, prior_layers=1, free_nats=0.0),
    behaviour=ActorCriticConfig(units=6, horizon=2, actor_layers=1, critic_layers=1, bins=11, actor_scale=0.0),
    planner=PLANNER["mppi"],
    distil=DistilConfig("cross_entropy", scale=2.0, reanalyse=0.5),
    optim=OptimConfig(learning_rate=1e-3, warmup=0),
)
OBSERVATION, CHOICE = {"pos": specs.Array((2,), np.float32)}, specs.DiscreteArray(3)
AGENT = PlannedDreamer(CONFIG, OBSERVATION, ACTION)

chex.clear_trace_counter()
init = jax.jit(AGENT.init)
update = jax.jit(chex.assert_max_traces(AGENT.update, n=1))
act = jax.jit(AGENT.act, static_argnums=4)


def sequence(seed=0, searched=0):
    """Return a sequence ``[T + 1, B]`` of noise with what was searched in this update."""
    draw, timestep = noise(seed, observation=OBSERVATION)
    latent = AGENT.model.initial(1)._replace(deter=jnp.tanh(draw(8)), stoch=draw(12))
    when = jnp.full(timestep.reward.shape, searched, jnp.int32)
    target = Target(jnp.tanh(draw(3, 1)), jax.nn.softmax(draw(3)), draw(), when)
    return Sequence(timestep, jnp.tanh(draw(1)), Kept(AGENT.model.pack(latent), target))


@pytest.fixture(scope="module")
def state():
    return init(KEY)


class TestLearner(agent_checks.Learner):
    """Every parameter learns, and so the actor, from plans alone: its own loss weighs nothing."""

    name, config, gamma, specs = "dreamer", CONFIG, 0.997, (OBSERVATION, ACTION)
    update, sequence = staticmethod(update), staticmethod(sequence)


def test_without_a_planner_it_is_dreamer_and_nothing_is_added():
    plain = make(dataclasses.replace(CONFIG, planner=NoPlannerConfig(), distil=DistilConfig()), OBSERVATION, ACTION)
    assert type(plain.update.__self__) is Dreamer
    shape = jax.eval_shape(plain.init, KEY)
    assert shape.updates is None
    assert len(jax.tree.leaves(shape)) + 1 == len(jax.tree.leaves(jax.eval_shape(AGENT.init, KEY)))
    # A planner that acts and does not teach leaves what replay keeps as it was.
    acting = PlannedDreamer(dataclasses.replace(CONFIG, distil=DistilConfig()), OBSERVATION, ACTION)
    seen = jax.tree.map(lambda x: x[0], sequence().timestep)
    kept = jax.eval_shape(lambda: acting.act(acting.init(KEY), KEY, acting.initial(2), seen, "random")).context
    chex.assert_trees_all_equal_shapes_and_dtypes(kept, acting.model.pack(acting.model.initial(2)))


def test_the_actors_gradient_is_that_of_the_cross_entropy_by_hand(state):
    """With its own loss off: 2 mean over [T, B] of known (1 - last) sum_k q_k d -log N(a_k; mu, sigma)."""
    agent = PlannedDreamer(
        dataclasses.replace(CONFIG, distil=dataclasses.replace(CONFIG.distil, reanalyse=0.0)), OBSERVATION, ACTION
    )
    given = sequence()
    target = given.context.target
    target = target._replace(searched=target.searched.at[1, 1].set(NEVER))
    given = given._replace(context=given.context._replace(target=target))
    grads, (context, _, metrics) = jax.jit(jax.grad(partial(agent._loss, state=state, key=KEY, sequence=given),
                                                    has_aux=True))(state.params)
    latent = agent.model.unpack(jax.tree.map(lambda x: x[1:], context.latent))
    counts = np.ones((4, 2), np.float32)
    counts[0, 1] = counts[1, 0] = 0  # no search; an episode's last step

    def by_hand(actor):
        policy = agent.behaviour.act(actor, latent)
        mu, sigma, a = policy.loc[..., 0, None], policy.scale[..., 0, None], target.candidates[1:, ..., 0]
        surprise = 0.5 * ((a - mu) / sigma) ** 2 + jnp.log(sigma) + 0.5 * np.log(2 * np.pi)
        return (counts * (target.weights[1:] * surprise).sum(-1)).sum() / 8

    value, expected = jax.value_and_grad(by_hand)(state.params["actor"])
    chex.assert_trees_all_close(grads["actor"], jax.tree.map(lambda x: 2 * x, expected), rtol=1e-4, atol=1e-6)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(expected)) > 1e-2
    assert float(metrics["loss/distil"]) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["distil/loss"]) == pytest.approx(float(value) * 8 / 6, rel=1e-5)
    assert float(metrics["distil/known"]) == pytest.approx(6 / 8)
    q = np.asarray(target.weights[1:])
    entropy = (counts * -(q * np.log(q)).sum(-1)).sum() / 6
    assert float(metrics["distil/entropy"]) == pytest.approx(entropy, rel=1e-5)


def imitate(agent, given):
    """Return the actor's gradient of the lesson alone."""
    latent = agent.model.unpack(jax.tree.map(lambda x: x[1:], given.context.latent))
    goes_on, state = 1.0 - given.timestep.last()[1:], init(KEY)
    learn = lambda actor, kept: agent._imitate({"actor": actor}, state, KEY, latent, goes_on, kept)[0]
    return jax.jit(jax.grad(learn))(state.params["actor"], given.context.target)


def test_what_was_never_searched_teaches_nothing():
    """Targets of random actions hold no plan."""
    agent = PlannedDreamer(
        dataclasses.replace(CONFIG, distil=dataclasses.replace(CONFIG.distil, reanalyse=0.0)), OBSERVATION, ACTION
    )
    assert all((x == 0).all() for x in jax.tree.leaves(imitate(agent, sequence(searched=NEVER))))
    assert any((x != 0).any() for x in jax.tree.leaves(imitate(agent, sequence())))


def test_renewal_changes_its_share_and_makes_it_new(state):
    """Of four steps two are searched again in each update: their targets change and their age is 0."""
    given, later = sequence(searched=3), state._replace(updates=jnp.int32(13))
    output = update(later, KEY, given)
    target = output.context.target
    renewed = np.asarray(target.searched == 13)
    assert not renewed[0].any()  # the context's own step is not learned from
    assert renewed.all(1).sum() == 2  # whole times
    assert renewed.sum() == 2 * 2
    for old, new in zip(given.context.target[:3], target[:3], strict=True):
        changed = np.asarray(old != new).reshape((5, 2, -1)).any(-1)
        np.testing.assert_array_equal(changed, renewed)
    np.testing.assert_allclose(target.weights.sum(-1), 1, rtol=1e-5)
    # Those that are old are so by 10 updates; the last step of an episode has no say.
    counts = 1 - np.asarray(given.timestep.last()[1:])
    expected = (10 * ~renewed[1:] * counts).sum() / counts.sum()
    assert float(output.metrics["distil/age"]) == pytest.approx(expected, rel=1e-5)
    assert int(output.state.updates) == 14
    assert (update(later, jax.random.key(3), given).context.target.searched != target.searched).any()


@pytest.mark.parametrize("lesson", ["cross_entropy", "none"])
@pytest.mark.parametrize("stored", [True, False])
def test_without_stored_latents_sequences_start_from_nothing(monkeypatch, stored, lesson):
    config = dataclasses.replace(CONFIG, replay_context=stored, distil=DistilConfig(lesson))
    agent, given = PlannedDreamer(config, OBSERVATION, ACTION), sequence()
    packed = given.context.latent
    given = given if agent.keeps else given._replace(context=packed)
    kept = agent.model.unpack(jax.tree.map(lambda x: x[0], packed))
    start = start_of_update(agent, given, monkeypatch)
    assert not any(unlike(start, kept if stored else agent.model.initial(2)))


def test_without_stored_latents_targets_stay(state):
    lesson = dataclasses.replace(CONFIG.distil, reanalyse=0.0)
    agent = PlannedDreamer(dataclasses.replace(CONFIG, replay_context=False, distil=lesson), OBSERVATION, ACTION)
    given, learn = sequence(), jax.jit(agent.update)
    other = given._replace(context=given.context._replace(latent=sequence(1).context.latent))
    ours, theirs = learn(state, KEY, given), learn(state, KEY, other)
    assert not any(unlike(ours.context.target, given.context.target))
    # What was stored of latents has no say; the first is left as it is, and the others come fresh.
    assert not any(unlike(ours.state, theirs.state))
    assert not any(unlike(*(jax.tree.map(lambda x: x[0], x.context.latent) for x in (ours, given))))
    assert not any(unlike(*(jax.tree.map(lambda x: x[1:], x.context.latent) for x in (ours, theirs))))


@pytest.mark.parametrize("mode", ["train", "eval", "random"])
def test_acting(state, mode):
    fresh, seen = AGENT.initial(2), jax.tree.map(lambda x: x[0], sequence().timestep)
    seen = seen._replace(step_type=jnp.array([FIRST, MID], jnp.int32))
    used = jax.tree.map(lambda x: x + 0.5, fresh)
    one, other = act(state, KEY, fresh, seen, mode), act(state, KEY, used, seen, mode)
    np.testing.assert_array_equal(one.action[0], other.action[0])  # FIRST forgets
    assert abs(one.action).max() <= 1
    np.testing.assert_array_equal(one.carry.action, one.action)
    assert (one.context.target.searched == (NEVER if mode == "random" else 0)).all()
    unpacked = AGENT.model.unpack(one.context.latent)
    np.testing.assert_array_equal(unpacked.deter, one.carry.latent.deter)
    if mode != "random":
        centre = (one.context.target.weights[..., None] * one.context.target.candidates).sum(1)
        assert (np.allclose(one.action, centre, atol=1e-5)) == (mode == "eval")  # the planner's own choice, or a draw


@pytest.mark.parametrize("name", ["cem", "gradient", "icem", "mppi"])
def test_planners_of_continuous_actions_are_refused_for_discrete_ones(name):
    with pytest.raises(UserError, match=f"{name} needs continuous actions and these are discrete"):
        make(dataclasses.replace(CONFIG, planner=PLANNER[name]), OBSERVATION, CHOICE)


@pytest.mark.parametrize(
    ("name", "action"),
    [("random", CHOICE), ("gradient", ACTION), ("mctx", CHOICE)],
)
def test_planners_act_and_teach(name, action):
    """Shapes alone, those of mppi apart, which the other tests have: what a lesson hands back is what acting stored."""
    agent, given = PlannedDreamer(dataclasses.replace(CONFIG, planner=PLANNER[name]), OBSERVATION, action), sequence()
    state = jax.eval_shape(agent.init, KEY)
    seen = jax.tree.map(lambda x: x[0], given.timestep)
    kept = jax.eval_shape(lambda state: agent.act(state, KEY, agent.initial(2), seen, "train"), state).context
    many = jax.tree.map(lambda x: jnp.zeros((5, *x.shape), x.dtype), kept)
    latent = agent.model.unpack(jax.tree.map(lambda x: x[1:], many.latent))
    lesson = lambda state: agent._imitate(state.params, state, KEY, latent, jnp.ones((4, 2)), many.target)
    _, target, metrics = jax.eval_shape(lesson, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(target, many.target)
    assert metrics.keys() == {"distil/loss", "distil/age", "distil/known", "distil/entropy", "distil/kl"}


def test_the_plans_value_teaches_the_actor_alone():
    """Its derivative reaches the policy that the tree's actions were drawn from, and neither model nor critic.

    That of the tree as it was before it was refined, for at an optimum there is no derivative left.
    """
    plan = dataclasses.replace(PLANNER["soft_tree"], rounds=1, width=2, candidates=2, refine=3, horizon=1)
    agent = PlannedDreamer(dataclasses.replace(CONFIG, planner=plan, distil=DistilConfig("value")), OBSERVATION, ACTION)
    wave = lambda x: x + 0.1 * np.sin(np.arange(x.size, dtype=np.float32)).reshape(x.shape)
    state = init(KEY)
    state = state._replace(params=jax.tree.map(wave, state.params))  # no head is zero any more
    latent = agent.model.unpack(jax.tree.map(lambda x: x[1:], sequence().context.latent))
    learn = lambda params, going: agent._ascend(params, state, KEY, latent, going)
    learn = jax.jit(jax.grad(learn, has_aux=True))
    grads, metrics = learn(state.params, jnp.ones((4, 2)))
    assert all((x == 0).all() for name in ("model", "critic") for x in jax.tree.leaves(grads[name]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads["actor"]))
    assert max(float(abs(x).max()) for x in jax.tree.leaves(grads["actor"])) > 1e-4
    assert (float(metrics["distil/age"]), float(metrics["distil/known"])) == (0, 1)

    @jax.jit
    def search(actor):
        times, plan = agent.teacher.some(state.params | {"actor": actor}, KEY, latent)
        return times, plan.value

    times, value = search(state.params["actor"])
    # Of each sequence one time after the other, of which those count that are no episode's last.
    going = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    counts = np.concatenate([np.asarray(going)[times, column] for column in range(2)])
    np.testing.assert_allclose(agent._ascend(state.params, state, KEY, latent, going)[0], -(counts * value).mean(),
                               rtol=1e-4)
    step = 1e-3 / optax.tree.norm(grads["actor"])
    up = jax.tree.map(lambda x, slope: x - step * slope, state.params["actor"], grads["actor"])
    assert search(up)[1].mean() > value.mean()
    ended, _ = learn(state.params, jnp.zeros((4, 2)))  # where every step is an episode's last there is no plan to make
    assert all((x == 0).all() for x in jax.tree.leaves(ended))


def test_the_divergence_from_candidates_of_which_some_are_the_same():
    """Weights of 1/2, 1/4 and 1/4 on the actions 0, 1 and 1, which is half on each; the policy has .8 and .2."""
    policy = OneHot(jnp.log(jnp.array([[0.8, 0.2]])))
    candidates = jnp.eye(2)[jnp.array([[0, 1, 1]])]
    target = Target(candidates, jnp.array([[0.5, 0.25, 0.25]]), jnp.zeros(1), jnp.array([3]))
    found = distilling.told(policy, target, jnp.ones(1), jnp.ones((1, 1)), jnp.int32(5))
    np.testing.assert_allclose(found["distil/entropy"], np.log(2), rtol=1e-5)
    np.testing.assert_allclose(found["distil/kl"], -np.log(2) - 0.5 * np.log(0.8) - 0.5 * np.log(0.2), rtol=1e-4)
    assert float(found["distil/age"]) == 2


def test_how_each_planner_explores():
    problem = AGENT.problem
    loud = dataclasses.replace(PLANNER["gradient"], noise=0.1)
    assert (exploring(loud, problem).noise, settled(loud).noise) == (0.1, 0.0)
    assert settled(exploring(PLANNER["mctx"], problem)).gumbel == 0
    assert exploring(PLANNER["mctx"], problem).gumbel == 1
    assert (exploring(PLANNER["cem"], problem).choose, exploring(PLANNER["cem"], problem).noise) == ("sample", True)
    assert not exploring(PLANNER["random"], problem._replace(discrete=True)).noise
    assert exploring(PLANNER["gradient"], problem).noise > 0
    assert exploring(PLANNER["soft_tree"], problem) == PLANNER["soft_tree"]
    assert not AGENT.searcher.calm.config.noise


def test_another_planner_may_act_in_its_place(state):
    agent = with_planner(make(CONFIG, OBSERVATION, ACTION), PLANNER["cem"])
    seen = jax.tree.map(lambda x: x[0], sequence().timestep)
    output = jax.jit(agent.act, static_argnums=4)(state, KEY, agent.initial(2), seen, "eval")
    np.testing.assert_array_equal(output.carry.memory.action, output.action)


@pytest.mark.parametrize(
    ("changes", "action", "sentence"),
    [
        ({"planner": NoPlannerConfig()}, ACTION, "agent.distil cross_entropy needs a planner to learn from; set agent"),
        ({"distil": DistilConfig("value")}, ACTION, "a derivative: agent.planner soft_tree; got mppi"),
        ({"distil": DistilConfig("moment_match"), "planner": PLANNER["mctx"]}, CHOICE, "needs continuous actions"),
        ({"distil": DistilConfig("value", reanalyse=0.0)}, ACTION, "reanalyse must be above 0 for value"),
        ({"distil": DistilConfig("cross_entropy", reanalyse=1.5)}, ACTION, "distil.reanalyse must lie in"),
        ({"distil": DistilConfig("cross_entropy", scale=-1.0)}, ACTION, "distil.scale must be at least 0"),
    ],
)
def test_bad_configs_are_refused_in_a_sentence(changes, action, sentence):
    with pytest.raises(UserError, match=sentence):
        make(dataclasses.replace(CONFIG, **changes), OBSERVATION, action)
