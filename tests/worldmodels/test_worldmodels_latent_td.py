import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID, Sequence, TimeStep
from mbrl.nets.images import ImageConfig
from mbrl.nets.mish import DenseNorm, MishHead, simnorm
from mbrl.worldmodels.base import WorldModel
from mbrl.worldmodels.latent_td import LatentTD, LatentTDConfig, cut, embed

CONFIG = LatentTDConfig(
    latent=16, units=8, encoder_units=8, encoder_layers=1, layers=1, decoder_layers=0, task_dim=3, horizon=2, bins=11
)
OBSERVATION = {"pos": specs.Array((2,), np.float32), "task": specs.DiscreteArray(3, np.int32)}
ACTION = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
KEY = jax.random.key(0)
MODEL = LatentTD(CONFIG, OBSERVATION, ACTION)
PARAMS = jax.jit(MODEL.init)(KEY)
unroll, observe = jax.jit(MODEL.unroll), jax.jit(MODEL.observe)
losses = jax.jit(lambda params, unrolled: MODEL.losses(params, unrolled)[0])

# Entry 0 goes on; 1 ends and begins again; 2 begins with FIRST, 3 with LAST.
STEP_TYPES = np.array([[MID, MID, FIRST, LAST], [MID, LAST, MID, FIRST], [MID, FIRST, MID, MID]], np.int32)


def sequence(step_types=STEP_TYPES, seed=0):
    rng, lead = np.random.default_rng(seed), step_types.shape
    draw = lambda *shape: jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32)
    observation = {"pos": draw(2), "task": jnp.asarray(rng.integers(0, 3, lead), jnp.int32)}
    going = jnp.asarray(step_types != LAST, jnp.float32)
    return Sequence(TimeStep(jnp.asarray(step_types), draw(), going, observation), jnp.tanh(draw(1)), ())


def test_it_is_a_world_model():
    assert isinstance(MODEL, WorldModel)


def test_simnorm_by_hand():
    # Groups of two: the first has logits 0 and ln 3, so 1/4 and 3/4; equal logits share alike, however large.
    x = jnp.array([[0.0, np.log(3.0), 50.0, 50.0]])
    np.testing.assert_allclose(simnorm(x, 2), [[0.25, 0.75, 0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(simnorm(x, 4).sum(-1), [1.0], rtol=1e-6)


def test_a_layer_by_hand():
    # x W = (1, 3): less their mean and divided by their deviation (-1, 1).
    params = {"Dense_0": {"kernel": jnp.array([[1.0, 3.0]]), "bias": jnp.zeros(2)},
              "LayerNorm_0": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}
    np.testing.assert_allclose(DenseNorm(2).apply({"params": params}, jnp.ones((1, 1))), [[-1.0, 1.0]], rtol=1e-4)
    # mish(x) = x tanh(ln(1 + e^x)), summed by the output.
    params = {"MishMLP_0": {"DenseNorm_0": params}, "Dense_0": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}}
    mish = lambda x: x * np.tanh(np.log1p(np.exp(x)))
    np.testing.assert_allclose(
        MishHead(1, 2, 1).apply({"params": params}, jnp.ones((1, 1))), [[mish(-1.0) + mish(1.0)]], rtol=1e-4
    )


@pytest.mark.parametrize(("length", "horizon", "pieces"), [(2, 2, 1), (5, 2, 2), (6, 3, 2), (4, 1, 4)])
def test_sequences_are_cut_into_pieces_that_share_their_borders(length, horizon, pieces):
    given = sequence(np.full((length + 1, 2), MID, np.int32))
    given = given._replace(action=jnp.arange(2.0 * (length + 1)).reshape((2, -1)).T[..., None])
    found = cut(given, horizon).action[..., 0]
    assert found.shape == (horizon + 1, 2 * pieces)
    for row in range(2):
        for piece in range(pieces):
            begin = row * (length + 1) + piece * horizon
            np.testing.assert_array_equal(found[:, row * pieces + piece], begin + np.arange(horizon + 1))


def test_too_short_sequences_are_refused_in_a_sentence():
    with pytest.raises(UserError) as error:
        cut(sequence(), 3)
    assert str(error.value) == "worldmodel.horizon must be at most replay.batch_length (2); got 3"


def test_what_lies_behind_a_border_is_masked_and_decays_by_hand():
    unrolled = unroll(PARAMS, KEY, sequence())
    np.testing.assert_array_equal(unrolled.reached, [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0]])
    np.testing.assert_array_equal(unrolled.decay, [[1.0], [0.5], [0.25]])
    found = losses(PARAMS, unrolled)
    assert found.keys() == MODEL.weights.keys()
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 0]])
    far = np.square(np.asarray(unrolled.latent.state[1:] - unrolled.seen.state)).mean(-1)
    np.testing.assert_allclose(found["consistency"], mask * np.array([[1.0], [0.5]]) * far, rtol=1e-5)
    # A reward head of zeros says each of 11 bins alike: whatever the reward is, its loss is ln 11.
    np.testing.assert_allclose(found["reward"], mask * np.array([[1.0], [0.5]]) * np.log(11), rtol=1e-5)
    assert (np.asarray(found["discount"])[mask == 0] == 0).all()
    assert (np.asarray(found["reconstruction"])[mask == 0] == 0).all()


def test_nothing_behind_a_border_is_learned_from():
    given = sequence()
    total = jax.jit(lambda timestep, action: MODEL.loss(PARAMS, KEY, Sequence(timestep, action, ()))[0])
    other = sequence(seed=1)
    hidden = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1]], bool)
    swap = lambda a, b: jnp.where(hidden.reshape((3, 4, *(1,) * (a.ndim - 2))), b, a)
    timestep = jax.tree.map(swap, given.timestep, other.timestep)._replace(step_type=given.timestep.step_type)
    assert total(given.timestep, given.action) == total(timestep, given.action)
    assert total(given.timestep, given.action) != total(timestep, other.action)


def test_the_first_step_and_targets():
    unrolled, given = unroll(PARAMS, KEY, sequence()), sequence()
    seen = MODEL.encode(PARAMS, given.timestep.observation, (3, 4))
    np.testing.assert_allclose(unrolled.latent.state[0], seen.state[0], rtol=1e-6)
    np.testing.assert_allclose(unrolled.seen.state, seen.state[1:], rtol=1e-6)
    # Unrolled latents keep the task they began with.
    np.testing.assert_array_equal(unrolled.latent.task, np.broadcast_to(seen.task[:1], (3, 4, 3)))
    np.testing.assert_allclose(seen.state.reshape((3, 4, 2, 8)).sum(-1), 1, rtol=1e-5)


def test_decoders_have_no_say_and_targets_pass_no_gradient():
    given = sequence()

    def part(name):
        def of(params):
            return MODEL.losses(params, MODEL.unroll(params, KEY, given))[0][name].sum()

        return jax.jit(jax.grad(of))(PARAMS)

    size = lambda tree: sum(float(abs(x).sum()) for x in jax.tree.leaves(tree))
    drawn = part("reconstruction")
    assert {name for name, grads in drawn.items() if size(grads)} == {"decoder"}
    assert {name for name, grads in part("consistency").items() if size(grads)} == {"encoder", "dynamics", "task"}


def test_observing_forgets_at_first_and_agrees_with_stepping():
    given = sequence()
    start = MODEL.encode(PARAMS, jax.tree.map(lambda x: x[0], given.timestep.observation), (4,))
    latent = observe(PARAMS, KEY, start, given).latent
    one = jax.tree.map(lambda x: x[1], given.timestep)
    stepped = MODEL.step(PARAMS, KEY, start, given.action[0], one)
    for ours, theirs in zip(jax.tree.leaves(stepped), jax.tree.leaves(latent), strict=True):
        np.testing.assert_allclose(ours, theirs[0], rtol=1e-5, atol=1e-6)
    assert (latent.going[0, 3], latent.going[1, 1]) == (20, 20)
    dream = MODEL.imagine(PARAMS, KEY, start, given.action[:-1], 2)
    np.testing.assert_allclose(dream.latent.reward[1], latent.reward[0], atol=1e-6)


def test_an_embedding_by_hand():
    table = jnp.array([[3.0, 4.0], [0.3, 0.4]])
    np.testing.assert_allclose(embed(table, jnp.array([0, 1])), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)


def test_without_a_discount_head_episodes_go_on_for_ever():
    model = LatentTD(dataclasses.replace(CONFIG, discount=False), OBSERVATION, ACTION)
    params = jax.eval_shape(model.init, KEY)
    assert "discount" not in params
    assert "discount" not in model.weights
    assert float(model.predict(PARAMS, model.initial(1)).discount.mean()[0]) == 1.0


def test_images_and_vectors_together_have_shapes():
    observation = {"image": specs.BoundedArray((8, 8, 1), np.uint8, 0, 1), "pos": OBSERVATION["pos"]}
    config = dataclasses.replace(CONFIG, images=ImageConfig(depth=2, shift=1))
    model = LatentTD(config, observation, ACTION)
    params = jax.eval_shape(model.init, KEY)
    given = sequence()
    timestep = given.timestep._replace(
        observation={"image": jnp.zeros((3, 4, 8, 8, 1), jnp.uint8), "pos": given.timestep.observation["pos"]}
    )
    total, output = jax.eval_shape(model.loss, params, KEY, given._replace(timestep=timestep))
    assert total.shape == ()
    assert output.posterior.latent.state.shape == (2, 4, 16)
    prediction = jax.eval_shape(lambda p: model.predict(p, model.initial(3)).observation["image"].mean(), params)
    assert prediction.shape == (3, 8, 8, 1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"latent": None}, "worldmodel.latent must be at least 1; got None"),
        ({"horizon": 0}, "worldmodel.horizon must be at least 1; got 0"),
        ({"bins": 4}, "worldmodel.bins must be odd and at least 3; got 4"),
        ({"rho": 0.0}, "worldmodel.rho must be above 0 and at most 1; got 0.0"),
    ],
)
def test_bad_configs_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        LatentTD(dataclasses.replace(CONFIG, **changes), OBSERVATION, ACTION)
    assert str(error.value) == sentence
