import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dm_env import specs
from exact_models import LINE, Clock, ExactModel, Line

from mbrl.behaviours.base import Behaviour
from mbrl.behaviours.soft_actor_critic import (
    SoftActorCritic,
    SoftActorCriticConfig,
    Steps,
    Transition,
    check,
    replayed_steps,
    some_times,
)
from mbrl.core import parallel
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID, Sequence, TimeStep
from mbrl.worldmodels.rssm import RSSM, RSSMConfig

CONFIG = SoftActorCriticConfig(horizon=3, gamma=0.5, actor_layers=0, critic_layers=0, units=1, temperature=0.2)
BOX = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
KEY = jax.random.key(0)
LN2PI = math.log(2 * math.pi)


def make(model, spec=BOX, **changes):
    return SoftActorCritic(dataclasses.replace(CONFIG, **changes), model, spec)


def critics(one, other, action=0.0):
    """Return critics that say a number each, plus ``action`` times the action, whatever the state is."""
    kernel = jnp.zeros((2, 2, 1)).at[:, 1].set(action)
    return {"Dense_0": {"kernel": kernel, "bias": jnp.array([[one], [other]])}}


STILL = {"Dense_0": {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}}  # mean 0, raw log-deviation 0
# What the soft clamp between ln .01 and ln 7 makes of a log-deviation of 0.
BENT = math.log(7) - math.log1p(math.exp(math.log(7)))
LOG_STD = math.log(0.01) + math.log1p(math.exp(BENT - math.log(0.01)))
PARAMS = {"actor": STILL, "critic": critics(3.0, 5.0), "temperature": {"log": jnp.log(0.2)}}


def rows(reward, going, weight, action=0.5):
    """Return transitions of a state that is always 0, one per reward."""
    zeros = jnp.zeros((len(reward), 1))
    return Transition(zeros, zeros + action, jnp.array(reward), jnp.array(going), zeros, jnp.array(weight))


def drawn(key, count):
    """Return the actions that STILL takes, and their log-probabilities."""
    u = math.exp(LOG_STD) * np.asarray(jax.random.normal(key, (count, 1)), np.float64)
    normal = -0.5 * (u / math.exp(LOG_STD)) ** 2 - LOG_STD - LN2PI / 2
    return np.tanh(u)[:, 0], (normal - np.log(1 - np.tanh(u) ** 2))[:, 0]


def test_it_is_a_behaviour():
    assert isinstance(make(Line()), Behaviour)


def test_the_policy_by_hand():
    policy = make(Line()).act(
        {"Dense_0": {"kernel": jnp.array([[1.0, 0.0]]), "bias": jnp.zeros(2)}}, jnp.full((1, 1), 2.0)
    )
    np.testing.assert_allclose(policy.loc, [[2.0]])
    np.testing.assert_allclose(jnp.log(policy.scale), [[LOG_STD]], rtol=1e-5)


def test_the_soft_target_by_hand():
    # y = r + ½ c (min(3, 5) - .2 log pi(a')), which is the reward alone where the episode ends.
    target = jax.jit(make(Line()).target)(
        PARAMS, critics(3.0, 5.0), KEY, rows([1.0, 2.0, 3.0], [1.0, 0.5, 0.0], [1.0] * 3)
    )
    _, log_prob = drawn(KEY, 3)
    expected = np.array([1.0, 2.0, 3.0]) + 0.5 * np.array([1.0, 0.5, 0.0]) * (3 - 0.2 * log_prob)
    np.testing.assert_allclose(target, expected, rtol=1e-4)


def test_the_lambda_target_by_hand():
    # Two dreams of two steps; the last of a dream has the one-step target, the one before it a mixture with λ = ¾.
    transition = rows([1.0, 2.0, 3.0, 4.0], [1.0, 0.5, 0.0, 1.0], [1.0] * 4)
    behaviour = make(Line(), horizon=2, lam=0.75)
    target = jax.jit(behaviour.target, static_argnums=4)(PARAMS, critics(3.0, 5.0), KEY, transition, 2)
    entropy = -0.2 * drawn(KEY, 4)[1]
    last = [2 + 0.25 * (3 + entropy[1]), 4 + 0.5 * (3 + entropy[3])]
    first = [1 + 0.5 * (0.25 * 3 + 0.75 * last[0] + entropy[0]), 3.0]
    np.testing.assert_allclose(target, [first[0], last[0], first[1], last[1]], rtol=1e-4)


def test_what_is_dreamt_later_reaches_the_target_of_what_is_earlier():
    # Line adds the action to what it is at; with critics that know nothing, one-step targets are the rewards alone.
    start = Steps(*(jnp.zeros((2, 3, 1)) for _ in range(3)), timestep=TimeStep(*(jnp.ones((2, 3)) for _ in range(4))))
    params = PARAMS | {"critic": critics(0.0, 0.0), "temperature": {"log": jnp.log(1e-9)}}
    behaviour = make(Line(), lam=1.0)
    imagined = behaviour.imagined(LINE, STILL, KEY, start)
    target = behaviour.target(params, params["critic"], KEY, imagined, behaviour.config.horizon)
    reward, alive = (np.asarray(x).reshape(6, 3) for x in (imagined.reward, 0.5 * imagined.going))
    expected = reward[:, 2]
    np.testing.assert_allclose(np.asarray(target).reshape(6, 3)[:, 2], expected, rtol=1e-5, atol=1e-6)
    for t in (1, 0):
        expected = reward[:, t] + alive[:, t] * expected
        np.testing.assert_allclose(np.asarray(target).reshape(6, 3)[:, t], expected, rtol=1e-5, atol=1e-6)
    _, metrics = behaviour.loss(params, LINE, params["critic"], KEY, start)
    dreamt = behaviour.imagined(LINE, STILL, jax.random.split(KEY, 4)[0], start)
    told = behaviour.target(params, params["critic"], KEY, dreamt, 3).mean()
    assert float(metrics["critic/target"]) == pytest.approx(float(told), rel=1e-4)  # the loss asks for all its steps


@pytest.mark.parametrize("lam", [0.0, 0.8])
def test_devices_that_share_the_rows_lose_what_one_would(lam):
    behaviour = make(Line(), lam=lam, real_share=0.3)
    params, draw = random_params(behaviour), np.random.default_rng(3)
    normal = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)
    timestep = TimeStep(jnp.full((2, 4), MID), normal(2, 4), jnp.ones((2, 4)), normal(2, 4, 1))
    steps = Steps(normal(2, 4, 1), jnp.tanh(normal(2, 4, 1)), normal(2, 4, 1), timestep)

    def losses(steps):
        metrics = behaviour.loss(params, LINE, params["critic"], KEY, steps)[1]
        return jnp.stack([metrics[f"loss/{name}"] for name in ("actor", "critic", "real_critic")])

    shares = jax.tree.map(lambda x: jnp.stack(jnp.split(x, 2, axis=1)), steps)
    together = jax.jit(jax.vmap(losses, axis_name=parallel.AXIS))(shares)
    np.testing.assert_allclose(together.mean(0), jax.jit(losses)(steps), rtol=1e-4)


def test_the_critic_loss_by_hand():
    # Critics of 3 + a and 5 + a at a = ½, target 4: ½ · mean(½², 1.5²) = .625, by the weight.
    critic = critics(3.0, 5.0, action=1.0)
    loss = jax.jit(make(Line()).critic_loss)(critic, rows([0.0, 0.0], [1.0, 1.0], [1.0, 0.25]), jnp.array([4.0, 4.0]))
    np.testing.assert_allclose(loss, [0.625, 0.25 * 0.625], rtol=1e-6)


def test_actor_and_temperature_losses_by_hand():
    actor_losses = jax.jit(make(Line(), target_entropy=-2.0).actor_losses)
    losses, metrics = actor_losses(PARAMS, KEY, rows([0.0] * 4, [1.0] * 4, [1, 1, 0.5, 0]))
    _, log_prob = drawn(KEY, 4)
    weight = np.array([1, 1, 0.5, 0])
    np.testing.assert_allclose(losses["actor"], weight * (0.2 * log_prob - 3), rtol=1e-4)
    np.testing.assert_allclose(losses["temperature"], -weight * math.log(0.2) * (log_prob - 2), rtol=1e-4)
    assert float(metrics["actor/entropy"]) == pytest.approx(-log_prob.mean(), rel=1e-4)
    assert float(metrics["actor/temperature"]) == pytest.approx(0.2, rel=1e-5)


def test_the_temperature_rises_where_the_entropy_is_too_low():
    behaviour = make(Line())

    def loss(temperature, target):
        behaviour.target_entropy = target
        params = PARAMS | {"temperature": temperature}
        return behaviour.actor_losses(params, KEY, rows([0.0] * 64, [1.0] * 64, [1.0] * 64))[0]["temperature"].mean()

    slope = jax.jit(lambda target: jax.grad(loss)(PARAMS["temperature"], target)["log"])
    for target, sign in ((5.0, -1), (-5.0, 1)):
        found = float(slope(target))
        assert np.sign(found) == sign  # what is descended
        # It is the entropy less its target, whatever the temperature is.
        assert found == pytest.approx(-drawn(KEY, 64)[1].mean() - target, rel=1e-4)


def test_the_target_entropy_is_minus_the_actions_unless_it_is_said():
    assert make(Line(), specs.BoundedArray((3,), np.float32, -1, 1)).target_entropy == -3
    assert make(Line(), target_entropy=0.5).target_entropy == 0.5


def clock_steps(discount=1.0):
    """Return one replayed step that led to time 0."""
    at = lambda x: jnp.full((1, 1, 1), x)
    timestep = TimeStep(jnp.full((1, 1), MID), jnp.ones((1, 1)), jnp.full((1, 1), discount), at(0.0))
    return Steps(at(-1.0), at(0.0), at(0.0), timestep)


def test_imagined_transitions_by_hand():
    imagine = jax.jit(make(Clock([9.0, 1.0, 2.0, 3.0], [1.0, 0.8, 0.5, 0.25])).imagined)
    imagined = imagine({}, STILL, KEY, clock_steps())
    np.testing.assert_array_equal(imagined.features[:, 0], [0, 1, 2])
    np.testing.assert_array_equal(imagined.following[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(imagined.reward, [1, 2, 3])
    np.testing.assert_allclose(imagined.going, [0.8, 0.5, 0.25])
    # Step t is reached if the episode has gone on until then; no discounting here.
    np.testing.assert_allclose(imagined.weight, [1.0, 0.8, 0.4])
    # Of the start it is known: whatever the model says of time 0, the episode ended there.
    np.testing.assert_array_equal(imagine({}, STILL, KEY, clock_steps(0.0)).weight, [0, 0, 0])


def test_imagined_rows_keep_sequences_together():
    latent = jnp.arange(6.0).reshape((3, 2, 1))  # [T, B, 1]
    timestep = TimeStep(jnp.full((3, 2), MID), jnp.ones((3, 2)), jnp.ones((3, 2)), latent)
    behaviour = make(Clock([0.0] * 9, [1.0] * 9), horizon=2)
    imagined = jax.jit(behaviour.imagined)({}, STILL, KEY, Steps(latent, latent, latent, timestep))
    np.testing.assert_array_equal(imagined.features[:, 0], [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6])


def test_returns_for_the_diagnosis_by_hand():
    # Critics of 3 and 5: V = 3. d_1 = .4, d_2 = .25, d_3 = .125: R_2 = 3 + .125 V, R_1 = 2 + .25 R_2, R_0 = 1 + .4 R_1.
    behaviour = make(Clock([9.0, 1.0, 2.0, 3.0], [0.9, 0.8, 0.5, 0.25]))
    imagined = jax.jit(behaviour.imagine)({}, PARAMS, KEY, jnp.zeros((1, 1)))
    r2 = 3 + 0.125 * 3
    r1 = 2 + 0.25 * r2
    np.testing.assert_allclose(imagined.returns[:, 0], [1 + 0.4 * r1, r1, r2], rtol=1e-6)
    np.testing.assert_allclose(imagined.value[:, 0], [3.0] * 4)
    np.testing.assert_allclose(imagined.weight[:, 0], [0.9, 0.9 * 0.4, 0.9 * 0.4 * 0.25], rtol=1e-6)


def recording():
    """Return two sequences of four steps: unbroken, and ended at 1."""
    step_type = np.array([[MID, MID], [MID, LAST], [MID, FIRST], [MID, MID]], np.int32)
    discount = jnp.ones((4, 2)).at[1, 1].set(0.0)
    seen = jnp.arange(8.0).reshape((4, 2, 1))
    timestep = TimeStep(jnp.asarray(step_type), jnp.arange(8.0).reshape((4, 2)), discount, seen)
    return Sequence(timestep, seen / 10, seen)


def test_replayed_transitions_by_hand():
    sequence = recording()
    steps = replayed_steps(sequence.context[0], sequence.context[1:], sequence)
    real = make(Line()).replayed(steps)
    np.testing.assert_array_equal(real.features[:, 0], [0, 2, 4, 1, 3, 5])
    np.testing.assert_array_equal(real.following[:, 0], [2, 4, 6, 3, 5, 7])
    np.testing.assert_allclose(real.action[:, 0], [0, 0.2, 0.4, 0.1, 0.3, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(real.reward, [2, 4, 6, 3, 5, 7])
    np.testing.assert_array_equal(real.going, [1, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(real.weight, [1, 1, 1, 1, 0, 1])  # from LAST to FIRST there is no step


def test_some_times_are_whole_and_new():
    sequence = recording()
    steps = replayed_steps(sequence.context[0], sequence.context[1:], sequence)
    assert some_times(steps, KEY, 3) is steps
    taken = {tuple(np.asarray(some_times(steps, jax.random.key(i), 2).before[:, 0, 0])) for i in range(20)}
    assert {frozenset(pair) for pair in taken} == {frozenset(pair) for pair in ((0, 2), (0, 4), (2, 4))}
    some = some_times(steps, KEY, 2)
    np.testing.assert_array_equal(some.after[..., 0], some.before[..., 0] + 2)
    np.testing.assert_array_equal(some.timestep.reward, some.after[..., 0])


def random_params(behaviour, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(behaviour.init, KEY)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)


WHOLE = make(Line(), real_share=0.25)
STEPS = replayed_steps(recording().context[0] / 8, recording().context[1:] / 8, recording())
SLOW = random_params(WHOLE, 1)["critic"]
derive = jax.jit(jax.value_and_grad(WHOLE.loss, argnums=(0, 1, 2), has_aux=True))
GOLDEN = {
    "loss/actor": 0.1652506,
    "loss/critic": 1.418038,
    "loss/real_critic": 11.2291317,
    "loss/temperature": -0.7046095,
}


def test_the_loss_adds_up():
    total, metrics = derive(random_params(WHOLE), LINE, SLOW, KEY, STEPS)[0]
    part = lambda name: float(metrics[f"loss/{name}"])
    summed = part("actor") + part("temperature") + 0.75 * part("critic") + 0.25 * part("real_critic")
    assert float(total) == pytest.approx(summed, rel=1e-5)
    assert {name: float(metrics[name]) for name in GOLDEN} == pytest.approx(GOLDEN, rel=1e-4)


def test_whitened_networks_read_what_they_see_in_deviations_from_its_mean():
    plain, seeing = (make(Line(), units=4, actor_layers=1, critic_layers=1, whiten=on) for on in (False, True))
    fresh = {name: {"seen": part["seen"]} for name, part in seeing.init(KEY).items() if name != "temperature"}
    begin = lambda seed: {name: part | fresh.get(name, {}) for name, part in random_params(seeing, seed).items()}
    params, begun = begin(0), begin(1)
    params, slow = jax.jit(seeing.measure)(params, begun["critic"], STEPS)
    counted = np.asarray(STEPS.before)[np.asarray(STEPS.timestep.step_type) != FIRST]
    seen = params["actor"]["seen"]
    np.testing.assert_allclose(seen.mean, counted.mean(0), rtol=1e-5)
    np.testing.assert_allclose(seen.variance, counted.var(0), rtol=1e-5)
    x, action = jnp.array([[0.3], [-2.0]]), jnp.array([[0.1], [0.2]])
    read = (x - counted.mean()) / counted.std()
    own = lambda part: {name: leaf for name, leaf in part.items() if name != "seen"}
    modes = (seeing.act(params["actor"], x).mode(), plain.act(own(params["actor"]), read).mode())
    np.testing.assert_allclose(*modes, rtol=1e-5)
    for critic in (params["critic"], slow):
        np.testing.assert_allclose(seeing.values(critic, x, action), plain.values(own(critic), read, action), rtol=1e-5)
    chosen = (seeing.choose(params["actor"], KEY, x, "train"), plain.choose(own(params["actor"]), KEY, read, "train"))
    np.testing.assert_allclose(*chosen, rtol=1e-5)
    learned = jax.jit(jax.grad(seeing.loss, has_aux=True))(params, LINE, slow, KEY, STEPS)[0]
    assert all((leaf == 0).all() for part in ("actor", "critic") for leaf in learned[part]["seen"])
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(own(learned["actor"])))


def test_what_never_changes_is_read_as_it_is():
    behaviour = make(Line(), whiten=True)
    still = STEPS._replace(before=jnp.ones_like(STEPS.before))
    params, _ = behaviour.measure(behaviour.init(KEY), behaviour.init(KEY)["critic"], still)
    np.testing.assert_array_equal(behaviour._see(params["actor"], jnp.ones((2, 1))), jnp.ones((2, 1)))


def test_without_whitening_nothing_is_measured():
    params = random_params(WHOLE)
    assert WHOLE.measure(params, SLOW, STEPS) == (params, SLOW)


def test_only_the_behaviour_learns():
    _, (ours, model, slow) = derive(random_params(WHOLE), LINE, SLOW, KEY, STEPS)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(ours))
    assert model["gain"] == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slow))


def test_each_loss_trains_its_own_part():
    def losses(params):
        transition = WHOLE.imagined(LINE, STILL, KEY, STEPS)
        target = WHOLE.target(params, params["critic"], KEY, transition)
        critic = WHOLE.critic_loss(params["critic"], transition, target)
        return {name: loss.sum() for name, loss in WHOLE.actor_losses(params, KEY, transition)[0].items()} | {
            "critic": critic.sum()
        }

    for own, grads in jax.jit(jax.jacrev(losses))(random_params(WHOLE)).items():
        for name, part in grads.items():
            moved = [bool((leaf != 0).any()) for leaf in jax.tree.leaves(part)]
            assert all(moved) if name == own else not any(moved), (own, name)


def test_the_actor_follows_the_lesser_critic():
    # The lesser one falls with the action, the other rises: the mean action goes down.
    critic = critics(0.0, 9.0)
    critic["Dense_0"]["kernel"] = jnp.array([[[0.0], [-1.0]], [[0.0], [1.0]]])
    params = PARAMS | {"critic": critic, "temperature": {"log": jnp.log(1e-6)}}
    loss = lambda actor: (
        make(Line())
        .actor_losses(params | {"actor": actor}, KEY, rows([0.0] * 99, [1.0] * 99, [1.0] * 99))[0]["actor"]
        .mean()
    )
    assert jax.jit(jax.grad(loss))(STILL)["Dense_0"]["bias"][0] > 0


class Reach(ExactModel):
    """The next state is where the action pointed: reward -(s + a)^2 on the way, and a new s at -a; it never ends."""

    size = 2

    def move(self, params, latent, action):
        del params
        s = latent[..., :1]
        return jnp.concatenate([-action, -jnp.square(s + action)], -1)

    def outcome(self, params, latent):
        del params
        return latent[..., 1], jnp.ones(latent.shape[:-1])


def test_the_optimum_of_an_exact_model_is_found():
    """a = -s is best in every state, now and for what comes: the values are 0 then, but for the entropy."""
    behaviour = make(
        Reach(),
        horizon=1,
        gamma=0.5,
        actor_layers=1,
        critic_layers=1,
        units=32,
        real_share=0.0,
        target_entropy=-1.5,
        temperature=0.02,
    )
    optimiser = optax.adam(3e-3)

    def update(carry, key):
        params, slow, state = carry
        state_key, loss_key = jax.random.split(key)
        s = jax.random.uniform(state_key, (1, 64, 1), minval=-0.8, maxval=0.8)
        latent = jnp.concatenate([s, jnp.zeros_like(s)], -1)
        timestep = TimeStep(jnp.full((1, 64), MID), jnp.zeros((1, 64)), jnp.ones((1, 64)), latent)
        grads, metrics = jax.grad(behaviour.loss, has_aux=True)(
            params, {}, slow, loss_key, Steps(latent, s, latent, timestep)
        )
        updates, state = optimiser.update(grads, state)
        params = optax.apply_updates(params, updates)
        return (params, optax.incremental_update(params["critic"], slow, 0.05), state), metrics

    @jax.jit
    def train(key):
        params = behaviour.init(key)
        carry = params, params["critic"], optimiser.init(params)
        (params, _, _), metrics = jax.lax.scan(update, carry, jax.random.split(key, 1500))
        return params, jax.tree.map(lambda x: x[-100:].mean(), metrics)

    params, metrics = train(KEY)
    s = jnp.linspace(-0.8, 0.8, 9)[:, None]
    latent = jnp.concatenate([s, jnp.zeros_like(s)], -1)
    chosen = jax.jit(behaviour.choose, static_argnums=3)(params["actor"], KEY, latent, "eval")
    np.testing.assert_allclose(chosen, -s, atol=0.1)
    assert float(metrics["actor/entropy"]) == pytest.approx(-1.5, abs=0.1)
    # Each step costs the variance of the action, at most .02, and each to come pays its entropy: .5 / (1 - .5) of it.
    soft = float(metrics["actor/temperature"] * metrics["actor/entropy"])
    assert float(metrics["critic/value"]) == pytest.approx(soft, abs=0.1)


def test_it_learns_in_any_world_model():
    config = RSSMConfig(deter=8, hidden=6, units=6, stoch=3, classes=4, blocks=2, bins=11)
    model = RSSM(config, specs.Array((2,), np.float32), BOX)
    behaviour = make(model, units=6, actor_layers=1, critic_layers=1)
    params = jax.eval_shape(behaviour.init, KEY)
    latent = jax.tree.map(lambda x: jnp.zeros((4, *x.shape)), model.initial(2))
    timestep = TimeStep(jnp.full((4, 2), MID), jnp.ones((4, 2)), jnp.ones((4, 2)), jnp.zeros((4, 2, 2)))
    steps = Steps(latent, jnp.zeros((4, 2, 1)), latent, timestep)
    value = jax.eval_shape(
        jax.grad(behaviour.loss, has_aux=True), params, jax.eval_shape(model.init, KEY), params["critic"], KEY, steps
    )
    assert jax.tree.map(lambda x: x.shape, value[0]) == jax.tree.map(lambda x: x.shape, params)


def test_discrete_actions_are_refused_in_a_sentence():
    with pytest.raises(UserError) as error:
        make(Line(), specs.DiscreteArray(3))
    sentence = (
        "soft actor-critic takes continuous actions only and this environment has 3 discrete ones; take another "
        "agent, such as dreamer"
    )
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"horizon": 0}, "behaviour.horizon must be at least 1; got 0"),
        (
            {"horizon": 1, "lam": 0.5},
            "behaviour.lam 0.5 needs behaviour.horizon to be 2 or more, not 1; or set it to 0",
        ),
        ({"real_share": 1.5}, "behaviour.real_share must lie in [0, 1]; got 1.5"),
        ({"temperature": 0.0}, "behaviour.temperature must be above 0; got 0.0"),
        ({"temperature": float("inf")}, "behaviour.temperature must be finite; got inf"),
        ({"target_entropy": float("nan")}, "behaviour.target_entropy must be finite; got nan"),
        ({"target_entropy": float("-inf")}, "behaviour.target_entropy must be finite; got -inf"),
        ({"max_std": float("inf")}, "behaviour.max_std must be finite; got inf"),
        ({"max_std": float("nan")}, "behaviour.max_std must be finite; got nan"),
        ({"min_std": 8.0}, "behaviour.min_std must be positive and below max_std (7.0); got 8.0"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        make(Line(), **changes)
    assert str(error.value) == sentence


def test_every_number_of_the_config_is_checked():
    for field in dataclasses.fields(SoftActorCriticConfig):
        if field.name not in {"target_entropy", "whiten"}:
            bad = -1.0 if "float" in str(field.type) else -1
            with pytest.raises(UserError, match=f"{field.name} "):
                check(dataclasses.replace(CONFIG, **{field.name: bad}))
