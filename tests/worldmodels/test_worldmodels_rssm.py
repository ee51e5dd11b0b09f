import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from tiny_rssm import ACTION, CONFIG, OBSERVATION, STEP_TYPES, latents, make, parameters, sequence

from mbrl.core.distributions import TwoHot, symlog
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, MID
from mbrl.worldmodels.base import WorldModel, weigh
from mbrl.worldmodels.rssm import RSSM, RSSMConfig, check
from mbrl.worldmodels.stochastic import Categorical

KEY = jax.random.key(0)
MODEL = make()
PARAMS = parameters(MODEL)
SEQUENCE = sequence(MODEL)
START = MODEL.unpack(jax.tree.map(lambda x: x[0], SEQUENCE.context))

observe = jax.jit(MODEL.observe)
imagine = jax.jit(MODEL.imagine, static_argnums=4)


class Inputs(NamedTuple):
    """The parts of a sequence that a gradient can reach."""

    observation: dict
    reward: jax.Array
    discount: jax.Array
    action: jax.Array
    deter: jax.Array


def inputs_of(sequence):
    timestep = sequence.timestep
    return Inputs(timestep.observation, timestep.reward, timestep.discount, sequence.action, sequence.context.deter)


def with_inputs(sequence, inputs):
    timestep = sequence.timestep._replace(
        observation=inputs.observation, reward=inputs.reward, discount=inputs.discount
    )
    return sequence._replace(
        timestep=timestep, action=inputs.action, context=sequence.context._replace(deter=inputs.deter)
    )


def weighted(params, inputs, sequence, weights):
    output = MODEL.loss(params, KEY, with_inputs(sequence, inputs))
    losses = output[1].losses
    return sum(weights[name] * losses[name].mean() for name in losses), output


# One program gives every gradient of every loss, and the loss itself.
derive = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))


def gradient(name, sequence):
    """Return the gradients of one loss to parameters and inputs."""
    weights = {other: jnp.float32(other == name) for other in MODEL.weights}
    return derive(PARAMS, inputs_of(sequence), sequence, weights)[0]


def loss(sequence):
    return derive(PARAMS, inputs_of(sequence), sequence, dict.fromkeys(MODEL.weights, jnp.float32(0)))[1]


# Each step begins an episode, so that nothing but the posterior's sample stands between the networks and a loss.
FIRSTS = sequence(MODEL, np.full_like(STEP_TYPES, FIRST))
GOLDEN = {
    "reconstruction": 3.9441195,
    "reward": 1.7861667,
    "discount": 1.8335955,
    "dynamics": 0.3277761,
    "representation": 0.3277761,
}


def is_zero(tree):
    return all(bool((leaf == 0).all()) for leaf in jax.tree.leaves(tree))


def test_it_is_a_world_model():
    assert isinstance(MODEL, WorldModel)
    assert isinstance(make(latent="gaussian"), WorldModel)


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (3, 2)])
def test_shapes_at_the_door(latent, steps, batch):
    model = make(latent=latent)
    experience = sequence(model, np.full((steps + 1, batch), MID, np.int32))
    params = jax.eval_shape(model.init, KEY)
    total, output = jax.eval_shape(model.loss, params, KEY, experience)
    assert total.shape == ()
    assert {name: x.shape for name, x in output.losses.items()} == dict.fromkeys(model.weights, (steps, batch))
    assert all(x.shape == () for x in output.metrics.values())
    flat = model.stochastic.size
    filtered = output.posterior.latent
    assert (filtered.deter.shape, filtered.stoch.shape) == ((steps, batch, 8), (steps, batch, flat))
    actions = jnp.zeros((6, batch, 2))
    dream = jax.eval_shape(lambda p: model.imagine(p, KEY, model.initial(batch), actions, 6), params)
    assert (dream.latent.deter.shape, dream.action.shape) == ((7, batch, 8), (6, batch, 2))
    heads = jax.eval_shape(lambda p: model.predict(p, model.initial(batch)), params)
    assert heads.reward.logits.shape == (batch, 5)
    predicted = {name: head.prediction.shape for name, head in heads.observation.items()}
    assert predicted == {"pos": (batch, 2), "time": (batch, 1)}


def test_features_are_both_halves_of_the_state():
    latent = latents(MODEL, 2, 3)
    np.testing.assert_array_equal(MODEL.features(latent), np.concatenate([latent.deter, latent.stoch], -1))
    assert is_zero(MODEL.initial(2))


@pytest.mark.parametrize("model", [MODEL, make(latent="gaussian")])
def test_pack_and_unpack(model):
    latent = latents(model, 2, 3)
    packed = model.pack(latent)
    assert packed.stoch.dtype == (jnp.uint8 if model is MODEL else jnp.float32)
    assert packed.stoch.shape == (2, 3, 3)
    for ours, theirs in zip(model.unpack(packed), latent, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_no_class_is_ever_impossible():
    statistics = observe(PARAMS, KEY, START, SEQUENCE).statistics
    assert statistics.shape == (4, 2, 3, 4)
    assert np.exp(statistics).min() >= 0.99 * 0.01 / 4


def test_first_forgets_all_that_was_before():
    # Batch entry 0 begins anew at step 3, entry 1 at step 2: from there even NaN leaves no trace, before it does.
    plain = observe(PARAMS, KEY, START, SEQUENCE)
    firsts = {0: 3, 1: 2}
    before = np.arange(5)[:, None] < np.array([firsts[0], firsts[1]])
    spoil = lambda x: jnp.where(before.reshape((5, 2) + (1,) * (x.ndim - 2)), jnp.nan, x)
    timestep = SEQUENCE.timestep._replace(observation=jax.tree.map(spoil, SEQUENCE.timestep.observation))
    spoilt = SEQUENCE._replace(timestep=timestep, action=spoil(SEQUENCE.action))
    start = START._replace(deter=jnp.full_like(START.deter, jnp.nan))
    other = observe(PARAMS, KEY, start, spoilt)
    for entry, first in firsts.items():
        for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(plain), strict=True):
            np.testing.assert_array_equal(ours[first - 1 :, entry], theirs[first - 1 :, entry])
            assert np.isfinite(theirs).all()
        assert np.isnan(other.statistics[: first - 1, entry]).all()


def test_first_is_a_step_from_the_initial_state_without_action():
    whole = observe(PARAMS, KEY, START, SEQUENCE)
    fresh = MODEL.nets["dynamics"].apply({"params": PARAMS["dynamics"]}, *MODEL.initial(1), jnp.zeros((1, 2)))
    np.testing.assert_allclose(whole.latent.deter[2, 0], fresh[0], rtol=1e-5)
    np.testing.assert_allclose(whole.latent.deter[1, 1], fresh[0], rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Steady(Categorical):
    """Categorical variables whose noise is always the same, so that two ways to filter can be compared."""

    def noise(self, key, lead):
        del key
        return jnp.full((*lead, self.variables), 0.3)


def test_observing_is_stepping():
    model = make()
    model.stochastic = Steady(3, 4, 0.01)
    whole, step = jax.jit(model.observe)(PARAMS, KEY, START, SEQUENCE), jax.jit(model.step)
    latent = START
    for t in range(4):
        timestep = jax.tree.map(lambda x: x[t + 1], SEQUENCE.timestep)
        latent = step(PARAMS, KEY, latent, SEQUENCE.action[t], timestep)
        np.testing.assert_allclose(latent.deter, whole.latent.deter[t], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(latent.stoch, whole.latent.stoch[t], atol=1e-5)


def test_an_action_moves_the_next_state_and_not_this_one():
    actions = jnp.tanh(jax.random.normal(KEY, (3, 2, 2)))
    plain = imagine(PARAMS, KEY, START, actions, 3).latent.deter
    moved = imagine(PARAMS, KEY, START, actions.at[1].add(-0.5), 3).latent.deter
    np.testing.assert_array_equal(plain[0], START.deter)
    np.testing.assert_array_equal(moved[:2], plain[:2])
    assert (moved[2] != plain[2]).any(-1).all()
    # Filtering agrees: action[1] stands behind step 2, which is the second that is filtered.
    filtered = observe(PARAMS, KEY, START, SEQUENCE._replace(action=SEQUENCE.action.at[1].add(-0.5)))
    plain = observe(PARAMS, KEY, START, SEQUENCE)
    np.testing.assert_array_equal(filtered.latent.deter[0], plain.latent.deter[0])
    assert (filtered.latent.deter[1, 0] != plain.latent.deter[1, 0]).any()


def test_a_policy_and_its_own_actions_dream_the_same():
    policy = lambda latent, _: jnp.tanh(3 * latent.deter[:, :2] - 2 * latent.stoch[:, 1:3])
    dream = jax.jit(lambda params, latent: MODEL.imagine(params, KEY, latent, policy, 3))(PARAMS, START)
    told = imagine(PARAMS, KEY, START, dream.action, 3)
    np.testing.assert_allclose(told.latent.deter, dream.latent.deter, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.round(told.latent.stoch), np.round(dream.latent.stoch))
    for t in range(3):
        seen = jax.tree.map(lambda x: x[t], dream.latent)
        np.testing.assert_allclose(dream.action[t], policy(seen, KEY), rtol=1e-5, atol=1e-6)


def test_actions_beyond_the_box_are_shrunk_but_keep_a_gradient():
    # 3 acts as 1; its gradient is a third of that at 1, where the box begins.
    reach = lambda action: MODEL.imagine(PARAMS, KEY, START, action, 1).latent.deter[1].sum()
    value_and_grad = jax.jit(jax.value_and_grad(reach))
    value, grad = value_and_grad(jnp.ones((1, 2, 2)))
    outside, third = value_and_grad(jnp.full((1, 2, 2), 3.0))
    assert outside == pytest.approx(float(value))
    np.testing.assert_allclose(3 * third, grad, rtol=1e-4)
    assert (grad != 0).all()


def test_kl_balance_and_free_nats_by_hand():
    # Two variables, each with KL(½, ½ || ¼, ¾) = ½ ln(4 / 3): together ln(4 / 3) = .287682.
    model = make(free_nats=0.2)
    p, q = jnp.log(jnp.full((1, 1, 2, 2), 0.5)), jnp.log(jnp.broadcast_to(jnp.array([0.25, 0.75]), (1, 1, 2, 2)))
    np.testing.assert_allclose(model._balanced_kl(p, q), np.full((3, 1, 1), math.log(4 / 3)), rtol=1e-5)
    free, also_free, raw = make(free_nats=1.0)._balanced_kl(p, q)
    assert (free.item(), also_free.item()) == (1, 1)
    np.testing.assert_allclose(raw, [[math.log(4 / 3)]], rtol=1e-5)

    def sides(model, which):
        """Gradients to the raw logits of posterior and prior."""
        kl = lambda *logits: model._balanced_kl(*map(jax.nn.log_softmax, logits))[which].sum()
        return jax.jit(jax.grad(kl, argnums=(0, 1)))(p, q)

    # The dynamics' KL moves the prior alone, by q - p; the representation's moves the posterior alone, by
    # p_k (ln(p_k / q_k) - KL) = ½ (ln 2 - ½ ln(4 / 3)) = .274653 for the first class.
    posterior, prior = sides(model, 0)
    np.testing.assert_array_equal(posterior, jnp.zeros_like(p))
    np.testing.assert_allclose(prior[0, 0], [[-0.25, 0.25]] * 2, rtol=1e-5)
    posterior, prior = sides(model, 1)
    np.testing.assert_allclose(posterior[0, 0], [[0.274653, -0.274653]] * 2, rtol=1e-5)
    np.testing.assert_array_equal(prior, jnp.zeros_like(q))
    assert is_zero([sides(make(free_nats=0.3), which) for which in (0, 1)])


def test_each_side_of_the_balance_trains_its_own_network():
    dynamics, representation = gradient("dynamics", FIRSTS)[0], gradient("representation", FIRSTS)[0]
    for grads, moved, still in ((dynamics, "prior", "posterior"), (representation, "posterior", "prior")):
        assert not is_zero(grads[moved])
        assert is_zero(grads[still])
    assert is_zero(dynamics["encoder"])
    assert not is_zero(representation["encoder"])
    for grads in (dynamics, representation):
        assert is_zero([grads[name] for name in ("decoder", "reward", "discount")])


def test_the_context_step_is_not_learned_from():
    inputs = [gradient(name, SEQUENCE)[1] for name in MODEL.weights]
    for grads in inputs:
        assert is_zero([x[0] for x in (*grads.observation.values(), grads.reward, grads.discount)])
        assert is_zero([grads.deter[1:], grads.action[-1]])  # nothing follows the last action
    summed = jax.tree.map(lambda *parts: sum(abs(part) for part in parts), *inputs)
    assert (summed.observation["pos"][1:] != 0).all()
    assert (summed.reward[1:] != 0).all()
    # The stored latent starts the filter, and the first action is the step from it.
    assert (summed.deter[0] != 0).all()
    assert (summed.action[0] != 0).all()


def test_the_losses_by_hand():
    total, output = loss(SEQUENCE)
    latent, target = output.posterior.latent, jax.tree.map(lambda x: x[1:], SEQUENCE.timestep)
    heads = MODEL.predict(PARAMS, latent)
    error = {name: (heads.observation[name].prediction, target.observation[name]) for name in OBSERVATION}
    squares = [np.square(guess - symlog(x).reshape(guess.shape)).sum(-1) for guess, x in error.values()]
    np.testing.assert_allclose(output.losses["reconstruction"], sum(squares), rtol=1e-4)
    np.testing.assert_allclose(output.losses["reward"], -TwoHot(heads.reward.logits).log_prob(target.reward), rtol=1e-5)
    going = heads.discount.mean()
    cross = -np.log(np.where(target.discount == 1, going, 1 - going))
    np.testing.assert_allclose(output.losses["discount"], cross, rtol=1e-4)
    assert (target.discount == 0).any()
    raw = MODEL.nets["prior"].apply({"params": PARAMS["prior"]}, latent.deter)
    p, q = output.posterior.statistics, MODEL.stochastic.statistics(raw)
    divergence = (np.exp(p) * (np.asarray(p) - np.asarray(q))).sum((-2, -1))
    for name in ("dynamics", "representation"):
        np.testing.assert_allclose(output.losses[name], divergence, rtol=1e-3)
    assert output.metrics["model/kl"] == pytest.approx(divergence.mean(), rel=1e-3)
    weights = {"reconstruction": 1, "reward": 1, "discount": 1, "dynamics": 1, "representation": 0.1}
    assert weights == MODEL.weights
    summed = sum(weights[name] * float(x.mean()) for name, x in output.losses.items())
    assert float(total) == pytest.approx(summed, rel=1e-5)


def test_golden_loss():
    means = {name: float(x.mean()) for name, x in loss(SEQUENCE)[1].losses.items()}
    assert means == pytest.approx(GOLDEN, rel=1e-4)


def test_a_gaussian_latent_by_hand():
    model = make(latent="gaussian")
    params, experience = parameters(model), sequence(model)
    total, output = jax.jit(model.loss)(params, KEY, experience)
    assert np.isfinite(total)
    raw = model.nets["prior"].apply({"params": params["prior"]}, output.posterior.latent.deter)
    prior, posterior = (np.asarray(x) for x in (model.stochastic.statistics(raw), output.posterior.statistics))
    (m, s), (n, r) = np.moveaxis(posterior, -1, 0), np.moveaxis(prior, -1, 0)
    divergence = (np.log(r / s) + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5).sum(-1)
    np.testing.assert_allclose(output.losses["dynamics"], divergence, rtol=1e-3)


def test_weights_need_the_names_of_the_losses():
    losses = {"a": jnp.array([[1.0, 3.0]]), "b": jnp.array([[10.0]])}
    assert weigh(losses, {"a": 2.0, "b": 0.5}) == 9  # 2 · 2 + ½ · 10
    with pytest.raises(AssertionError):
        weigh(losses, {"a": 2.0})


def test_a_plain_array_is_an_observation_too():
    model = RSSM(CONFIG, specs.Array((3,), np.float32), specs.DiscreteArray(5))
    assert (model.senses.vectors, model.actions) == ({"state": (3,)}, 5)
    shapes = jax.eval_shape(model.init, KEY)
    timestep = sequence(model, np.full((1, 2), FIRST, np.int32)).timestep._replace(observation=jnp.zeros((1, 2, 3)))
    timestep = jax.tree.map(lambda x: x[0], timestep)
    latent = jax.eval_shape(model.step, shapes, KEY, model.initial(2), jnp.zeros((2, 5)), timestep)
    assert latent.deter.shape == (2, 8)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"deter": None},
            "worldmodel.deter, hidden, units and classes must be numbers here; the agent's size fills them",
        ),
        ({"blocks": 0}, "worldmodel.blocks must be at least 1; got 0"),
        ({"stoch": 0}, "worldmodel.stoch must be at least 1; got 0"),
        ({"units": -3}, "worldmodel.units must be at least 1; got -3"),
        ({"encoder_layers": 0}, "worldmodel.encoder_layers must be at least 1; got 0"),
        ({"head_layers": -1}, "worldmodel.head_layers must be at least 0; got -1"),
        ({"free_nats": math.nan}, "worldmodel.free_nats must be at least 0; got nan"),
        ({"reward_scale": -1.0}, "worldmodel.reward_scale must be at least 0; got -1.0"),
        # 13 = 1.6 · 8: 16 is nearer than 8. 3 < 8: never 0.
        (
            {"deter": 13, "blocks": 8},
            "worldmodel.deter must be a multiple of worldmodel.blocks (8); got 13, the nearest is 16",
        ),
        (
            {"deter": 3, "blocks": 8},
            "worldmodel.deter must be a multiple of worldmodel.blocks (8); got 3, the nearest is 8",
        ),
        ({"bins": 4}, "worldmodel.bins must be odd and at least 3; got 4"),
        ({"unimix": 1.0}, "worldmodel.unimix must lie in [0, 1); got 1.0"),
        ({"classes": 257}, "worldmodel.classes must lie between 2 and 256; got 257"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        RSSM(dataclasses.replace(CONFIG, **changes), OBSERVATION, ACTION)
    assert str(error.value) == sentence


def test_every_number_of_the_config_is_checked():
    for field in dataclasses.fields(RSSMConfig):
        if field.name not in {"latent", "remat", "images", "objective", "alignment"}:
            bad = -1.0 if "float" in str(field.type) else -1
            with pytest.raises(UserError, match=f"worldmodel.{field.name} "):
                check(dataclasses.replace(CONFIG, **{field.name: bad}))
