import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from exact_models import LINE, Choice, Clock, Line

from mbrl.behaviours.actor_critic import ActorCritic, ActorCriticConfig, Imagined, check
from mbrl.core import normalise
from mbrl.core.errors import UserError
from mbrl.core.normalise import PercentileConfig, PercentileState
from mbrl.core.types import FIRST, LAST, MID, TimeStep

CONFIG = ActorCriticConfig(
    horizon=3, gamma=0.5, lam=0.5, actor_layers=0, critic_layers=0, units=1, bins=41, gradient="dynamics"
)
BOX, DISCRETE = specs.BoundedArray((1,), np.float32, -1.0, 1.0), specs.DiscreteArray(3)
KEY = jax.random.key(0)
# 41 bins are symexp of -20 … 20; a critic that is sure of bin 21 says V = symexp(1) everywhere.
V = math.e - 1
SURE = {"Dense_0": {"kernel": jnp.zeros((1, 41)), "bias": 100 * jax.nn.one_hot(21, 41)}}
STILL = {"Dense_0": {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}}  # mean 0, raw deviation 0
UNIT = PercentileState(jnp.float32(0), jnp.float32(1), jnp.float32(1))


def make(model, spec=BOX, **changes):
    return ActorCritic(dataclasses.replace(CONFIG, **changes), model, spec)


def clock(rewards, discounts, **changes):
    behaviour = make(Clock(rewards, discounts), **changes)
    return behaviour.imagine({}, {"actor": STILL, "critic": SURE}, KEY, jnp.zeros((1, 1)))


def test_returns_and_weights_by_hand():
    # d_1 = ½, d_2 = 0, d_3 = ½. R_2 = 3 + ½ V; R_1 = 2, for s_2 is terminal; R_0 = 1 + ½ (½ V + ½ · 2).
    imagined = clock([9.0, 1.0, 2.0, 3.0], [1.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(imagined.returns[:, 0], [1.5 + V / 4, 2.0, 3 + V / 2], rtol=1e-5)
    np.testing.assert_allclose(imagined.value[:, 0], [V] * 4, rtol=1e-5)
    np.testing.assert_array_equal(imagined.features[:, 0, 0], [0, 1, 2, 3])
    # w_0 = c_0, w_1 = c_0 · ½ c_1, w_2 = w_1 · ½ c_2: what comes after the end counts nothing.
    np.testing.assert_array_equal(imagined.weight[:, 0], [1.0, 0.5, 0.0])


def test_weights_are_products_of_discounts():
    imagined = clock([0.0] * 4, [0.8, 0.5, 0.25, 0.9])
    np.testing.assert_allclose(imagined.weight[:, 0], [0.8, 0.8 * 0.25, 0.8 * 0.25 * 0.125], rtol=1e-6)


def test_a_terminal_start_counts_nothing():
    assert (clock([0.0] * 4, [0.0, 1.0, 1.0, 1.0]).weight == 0).all()


def test_without_a_future_only_the_first_step_counts():
    # gamma 0: R_t = r_{t+1}, and only the start is ever reached.
    imagined = clock([9.0, 1.0, 2.0, 3.0], [0.8, 1.0, 1.0, 1.0], gamma=0.0)
    np.testing.assert_array_equal(imagined.returns[:, 0], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(imagined.weight[:, 0], [0.8, 0.0, 0.0], rtol=1e-6)


HAND = Imagined(
    features=jnp.zeros((4, 1, 1)),
    action=jnp.array([0.5, -1.0, 2.0])[:, None, None],
    returns=jnp.array([3.0, 2.0, 7.0])[:, None],
    value=jnp.array([1.0, 4.0, 5.0, 6.0])[:, None],
    weight=jnp.array([0.8, 0.4, 0.1])[:, None],
)
STD = 0.1 + 0.9 / (1 + math.exp(-2))  # of the policy STILL
LOG_PROB = [-0.5 * (a / STD) ** 2 - math.log(STD) - 0.5 * math.log(2 * math.pi) for a in (0.5, -1.0, 2.0)]
ENTROPY = 0.5 + 0.5 * math.log(2 * math.pi) + math.log(STD)
# The pathwise loss is - w_t R_t / scale: - .8 · 3 / 4, - .4 · 2 / 4, - .1 · 7 / 4; with the whole derivative the first
# alone. The score's is - w_t ln pi(a_t) (R_t - V_t) / scale: advantages 2 / 4, -2 / 4, 2 / 4.
PATHWISE = np.array([-0.6, -0.2, -0.175])
SCORE = np.array([-0.8 * LOG_PROB[0] / 2, 0.4 * LOG_PROB[1] / 2, -0.1 * LOG_PROB[2] / 2])


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [("dynamics", PATHWISE), ("reinforce", SCORE), ("mix", 0.25 * PATHWISE + 0.75 * SCORE)],
)
def test_actor_loss_by_hand(gradient, expected):
    spread = PercentileState(jnp.float32(1), jnp.float32(5), jnp.float32(1))  # scale 4
    behaviour = make(Line(), gradient=gradient, mix=0.25, entropy=0.1)
    loss, metrics = behaviour.actor_loss(STILL, HAND, spread)
    bonus = 0.1 * ENTROPY * np.array([0.8, 0.4, 0.1])
    np.testing.assert_allclose(loss[:, 0], expected - bonus, rtol=1e-5)
    known = {"actor/entropy": ENTROPY, "actor/return_scale": 4.0, "actor/action_size": 3.5 / 3}
    assert {name: float(x) for name, x in metrics.items()} == pytest.approx(known, rel=1e-5)
    behaviour = make(Line(), gradient=gradient, mix=0.25, entropy=0.1, normalise_returns=False)
    plain, _ = behaviour.actor_loss(STILL, HAND, spread)
    np.testing.assert_allclose(plain[:, 0], 4 * expected - bonus, rtol=1e-5)


def test_the_whole_derivative_counts_the_first_step_alone():
    behaviour = make(Line(), gradient="dynamics", through_policy=True, entropy=0.0, normalise_returns=False)
    loss, _ = behaviour.actor_loss(STILL, HAND, normalise.init())
    np.testing.assert_allclose(loss[:, 0], [-0.8 * 3, 0.0, 0.0], rtol=1e-6)


def test_auto_is_dynamics_for_boxes_and_reinforce_for_choices():
    assert make(Line(), gradient="auto").gradient == "dynamics"
    assert make(Choice(), DISCRETE, gradient="auto").gradient == "reinforce"
    assert make(Choice(), DISCRETE, gradient="mix").gradient == "mix"


def test_critic_loss_by_hand():
    # Three bins -L, 0, L with probabilities ¼, ½, ¼. Target ½ L is half on 0 and half on L: ½ ln 2 + ½ ln 4 = 1.5 ln 2;
    # the slow critic is undecided, its mean 0: ln 2, twice.
    behaviour = make(Line(), bins=3, slow_scale=2.0)
    critic = {"Dense_0": {"kernel": jnp.zeros((1, 3)), "bias": jnp.log(jnp.array([1.0, 2.0, 1.0]))}}
    slow = jax.tree.map(jnp.zeros_like, critic)
    target = jnp.full((1, 1), math.expm1(20) / 2)
    loss = lambda critic, slow, target: behaviour.critic_loss(critic, slow, jnp.zeros((1, 1, 1)), target).sum()
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(critic, slow, target)
    np.testing.assert_allclose(value, 3.5 * math.log(2), rtol=1e-5)
    # Softmax less target for each part: (¼, ½ - ½, ¼ - ½) + 2 (¼, ½ - 1, ¼); targets and slow critic are data.
    np.testing.assert_allclose(grads[0]["Dense_0"]["bias"], [0.75, -1.0, 0.25], atol=1e-6)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads[1:]))


def replayed():
    """Four episodes' pieces side by side: unbroken, truncated at 1, terminated at 1, terminated at the end."""
    step_type = np.full((4, 4), MID)
    step_type[1, 1:3], step_type[2, 1:3], step_type[3, 3] = LAST, FIRST, LAST
    discount = np.ones((4, 4), np.float32)
    discount[1, 2] = discount[3, 3] = 0
    reward = np.tile(np.arange(4.0, dtype=np.float32)[:, None], 4)
    reward[2, 1:3] = 0
    return TimeStep(*map(jnp.asarray, (step_type.astype(np.int32), reward, discount)), jnp.zeros((4, 4, 1)))


def test_replay_returns_by_hand():
    bootstrap = jnp.tile(jnp.array([10.0, 20.0, 40.0, 80.0])[:, None], (1, 4))
    returns, mask = make(Line()).replay_returns(replayed(), bootstrap)
    # Unbroken: R_2 = 3 + ½ · 80 = 43; R_1 = 2 + ½ (½ · 40 + ½ · 43) = 22.75; R_0 = 1 + ½ (½ · 20 + ½ · 22.75).
    np.testing.assert_allclose(returns[:, 0], [11.6875, 22.75, 43.0])
    # Truncated: R_0 = 1 + ½ · 20, the bootstrap alone. Terminated: R_0 = 1, the reward alone. Then a new episode.
    np.testing.assert_allclose(returns[::2, 1], [11.0, 43.0])
    np.testing.assert_allclose(returns[::2, 2], [1.0, 43.0])
    # R_2 = 3; R_1 = 2 + ½ (½ · 40 + ½ · 3) = 12.75; R_0 = 1 + ½ (½ · 20 + ½ · 12.75) = 9.1875.
    np.testing.assert_allclose(returns[:, 3], [9.1875, 12.75, 3.0])
    np.testing.assert_array_equal(mask.T, [[1, 1, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1]])
    # What is masked has no influence on the rest.
    other, _ = make(Line()).replay_returns(replayed(), bootstrap.at[2].add(1000.0))
    np.testing.assert_allclose(other[0, 1:3], [11.0, 1.0])


WHOLE = make(Line(), gradient="mix")


def whole_loss(params, model, slow, posterior, timestep):
    return WHOLE.loss(params, model, slow, UNIT, KEY, posterior, timestep)


# Also its gradients to parameters, model, slow critic and posterior.
derive = jax.jit(jax.value_and_grad(whole_loss, argnums=(0, 1, 2, 3), has_aux=True))
GOLDEN = [0.4800582, 2.3997321, 3.2267375]  # actor, critic, replayed critic
POSTERIOR = jnp.linspace(-1.0, 1.0, 16).reshape((4, 4, 1))


def random_params():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    near_zero = -jnp.abs(jnp.arange(41.0) - 20)  # the outer bins, up to 5e8, are improbable
    critic = lambda: {"Dense_0": {"kernel": draw(1, 41), "bias": draw(41) + near_zero}}
    return {"actor": {"Dense_0": {"kernel": draw(1, 2), "bias": draw(2)}}, "critic": critic()}, critic()


def test_only_the_replayed_loss_reaches_the_model():
    params, slow = random_params()
    masked = replayed()._replace(step_type=jnp.full((4, 4), LAST, jnp.int32))
    for timestep in (masked, replayed()):
        _, (ours, model, pulled, latent) = derive(params, LINE, slow, POSTERIOR, timestep)
        assert all((leaf != 0).any() for leaf in jax.tree.leaves(ours))
        assert model["gain"] == 0
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(pulled))
        # Imagination reaches no posterior state; the replay reaches those with a return along it: not LAST ones.
        reached = np.array(timestep.step_type != LAST)
        reached[-1] = False
        np.testing.assert_array_equal(latent[..., 0] != 0, reached)


def test_each_part_trains_its_own_network():
    params, slow = random_params()

    def actor_loss(params, model):
        imagined = WHOLE.imagine(model, params, KEY, POSTERIOR.swapaxes(0, 1).reshape((16, 1)))
        returns = normalise.update(UNIT, imagined.returns, CONFIG.percentiles)
        return WHOLE.actor_loss(params["actor"], imagined, returns)[0].mean()

    ours, model = jax.jit(jax.grad(actor_loss, argnums=(0, 1)))(params, LINE)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(ours["actor"]))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves((ours["critic"], model)))
    # Nothing else moves the actor: the critic's losses take the dream as data.
    whole = derive(params, LINE, slow, POSTERIOR, replayed())[1][0]
    chex.assert_trees_all_close(whole["actor"], ours["actor"], rtol=1e-4, atol=1e-6)


def test_the_loss_adds_up():
    params, slow = random_params()
    (total, (returns, metrics)), _ = derive(params, LINE, slow, POSTERIOR, replayed())
    parts = [metrics[f"loss/{name}"] for name in ("actor", "critic", "replay_critic")]
    assert float(total) == pytest.approx(float(parts[0] + parts[1] + 0.3 * parts[2]), rel=1e-5)
    assert all(x.shape == () for x in metrics.values())
    # The returns' statistics moved by a hundredth, and those are the ones that were used.
    assert returns.correction == 1
    assert returns.high != UNIT.high
    scale = max(1.0, float(returns.high - returns.low))
    assert float(metrics["actor/return_scale"]) == pytest.approx(scale, rel=1e-5)
    assert [float(part) for part in parts] == pytest.approx(GOLDEN, rel=1e-4)


def test_a_single_step_has_no_return_along_the_replay():
    params, slow = random_params()
    timestep = jax.tree.map(lambda x: x[:1], replayed())
    total, (_, metrics) = jax.jit(whole_loss)(params, LINE, slow, POSTERIOR[:1], timestep)
    assert np.isfinite(total)
    assert metrics["loss/replay_critic"] == 0


def test_continuous_policy_by_hand():
    actor = {"Dense_0": {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.array([0.5, -2.0])}}
    policy = make(Line()).act(actor, jnp.ones(1))
    # mean tanh(1 + .5), raw deviation 2 - 2 = 0: .1 + .9 sigmoid(2)
    np.testing.assert_allclose(policy.loc, [math.tanh(1.5)], rtol=1e-6)
    np.testing.assert_allclose(policy.scale, [STD], rtol=1e-6)


def test_discrete_policy_keeps_every_action_possible():
    actor = {"Dense_0": {"kernel": jnp.zeros((3, 3)), "bias": jnp.array([1000.0, 0.0, 0.0])}}
    policy = make(Choice(), DISCRETE).act(actor, jnp.zeros(3))
    np.testing.assert_allclose(jnp.exp(policy.log_probs), [0.99 + 0.01 / 3, 0.01 / 3, 0.01 / 3], rtol=1e-4)


def test_a_new_policy_is_undecided_and_a_new_critic_silent():
    behaviour = make(Line(), actor_layers=1, critic_layers=1, units=8)
    params, latent = jax.jit(behaviour.init)(KEY), jnp.linspace(-3.0, 3.0, 5)[:, None]
    policy = behaviour.act(params["actor"], latent)
    assert abs(policy.loc).max() < 0.05
    np.testing.assert_allclose(policy.scale, jnp.full((5, 1), STD), rtol=0.01)
    assert (behaviour.value(params["critic"], latent).mean() == 0).all()


def test_evaluation_takes_the_mode():
    actor = {"Dense_0": {"kernel": jnp.array([[0.0, 0.0]]), "bias": jnp.array([0.5, 0.0])}}
    behaviour, latent, other = make(Line()), jnp.zeros((50, 1)), jax.random.key(1)
    for key in (KEY, other):
        chosen = behaviour.choose(actor, key, latent, "eval")
        np.testing.assert_allclose(chosen, np.full((50, 1), math.tanh(0.5)), rtol=1e-6)
    sampled = [behaviour.choose(actor, key, latent, "train") for key in (KEY, other)]
    assert (sampled[0] != sampled[1]).any()
    assert abs(sampled[0]).max() == 1  # clipped to the box


def test_random_actions_ignore_the_policy():
    sure = {"Dense_0": {"kernel": jnp.array([[0.0, 0.0]]), "bias": jnp.array([9.0, -9.0])}}
    drawn = np.asarray(make(Line()).choose(sure, KEY, jnp.zeros((4000, 1)), "random"))
    assert abs(drawn).max() <= 1
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0, 3**-0.5], atol=0.03)
    sure = {"Dense_0": {"kernel": jnp.zeros((3, 3)), "bias": jnp.array([90.0, 0.0, 0.0])}}
    drawn = make(Choice(), DISCRETE).choose(sure, KEY, jnp.zeros((4000, 3)), "random")
    np.testing.assert_allclose(np.asarray(drawn).mean(0), [1 / 3] * 3, atol=0.03)


@pytest.mark.parametrize("mode", ["train", "eval", "random"])
def test_discrete_actions_are_one_hot(mode):
    actor = {"Dense_0": {"kernel": jnp.zeros((3, 3)), "bias": jnp.array([0.2, 0.1, 0.0])}}
    action = np.asarray(make(Choice(), DISCRETE).choose(actor, KEY, jnp.zeros((40, 3)), mode))
    assert action.shape == (40, 3)
    np.testing.assert_allclose(np.sort(action), np.tile([0.0, 0.0, 1.0], (40, 1)), atol=1e-6)
    assert len(np.unique(action.argmax(-1))) == (1 if mode == "eval" else 3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"horizon": 0}, "behaviour.horizon must be at least 1; got 0"),
        ({"units": None}, "behaviour.units must be at least 1; got None"),
        ({"actor_layers": -1}, "behaviour.actor_layers must be at least 0; got -1"),
        ({"entropy": math.nan}, "behaviour.entropy must be at least 0; got nan"),
        ({"gamma": 1.01}, "behaviour.gamma must lie in [0, 1]; got 1.01"),
        ({"lam": -0.1}, "behaviour.lam must lie in [0, 1]; got -0.1"),
        ({"bins": 4}, "behaviour.bins must be odd and at least 3; got 4"),
        ({"min_std": 2.0}, "behaviour.min_std must be positive and at most max_std (1.0); got 2.0"),
        ({"percentiles": PercentileConfig(rate=0.0)}, "percentiles.rate must be above 0 and at most 1, not 0.0"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        make(Line(), **changes)
    assert str(error.value) == sentence


def test_every_number_of_the_config_is_checked():
    for field in dataclasses.fields(ActorCriticConfig):
        if field.name not in ("gradient", "percentiles", "normalise_returns", "through_policy"):
            bad = -1.0 if "float" in str(field.type) else -1
            with pytest.raises(UserError, match=f"{field.name} "):
                check(dataclasses.replace(CONFIG, **{field.name: bad}))
