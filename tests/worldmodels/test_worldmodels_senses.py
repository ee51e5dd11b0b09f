"""The RSSM on images: what is seen reaches the losses, whatever teaches the encoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from tiny_rssm import ACTION, CONFIG, STEP_TYPES, normal, sequence

from mbrl.nets.images import ImageConfig
from mbrl.worldmodels.alignment import AlignmentConfig
from mbrl.worldmodels.rssm import RSSM

EYE = specs.BoundedArray((8, 8, 1), np.uint8, 0, 1)
SPEC = {"eye": EYE, "pos": specs.Array((2,), np.float32)}
IMAGES = ImageConfig(depth=1, multiples=(2,), kernel=3)
KEY = jax.random.key(0)


def make(spec=SPEC, images=IMAGES, **changes):
    config = dataclasses.replace(CONFIG, images=images, alignment=AlignmentConfig(size=5), **changes)
    return RSSM(config, spec, ACTION)


def seen(model, spec=SPEC):
    """Return the tiny sequence with noise for pictures."""
    rng, lead = np.random.default_rng(3), STEP_TYPES.shape
    images = jnp.asarray(rng.integers(0, 2, (*lead, 8, 8, 1), np.uint8))
    found = sequence(model)
    observation = {"eye": images, "pos": normal(rng, *lead, 2)} if isinstance(spec, dict) else images
    return found._replace(timestep=found.timestep._replace(observation=observation))


def test_a_token_is_the_vectors_and_then_the_images():
    model = make()
    assert model.senses.width == 7 + 4 * 4 * 2
    assert list(model.nets)[:2] == ["encoder", "encoder_eye"]
    params, found = model.init(KEY), seen(model).timestep.observation
    token = model._encode(params, found, STEP_TYPES.shape)
    np.testing.assert_array_equal(token[..., :7], model._apply(params, "encoder", found, STEP_TYPES.shape))
    np.testing.assert_array_equal(token[..., 7:], model._apply(params, "encoder_eye", found["eye"]))


def test_an_image_alone_needs_no_encoder_of_vectors():
    model = make(EYE)
    found = seen(model, EYE)
    assert set(model.nets) & {"encoder", "decoder"} == set()
    loss, output = jax.jit(model.loss)(model.init(KEY), KEY, found)
    assert np.isfinite(loss)
    prediction = model.predict(model.init(KEY), output.posterior.latent).observation["state"]
    assert prediction.mean().shape == (4, 2, 8, 8, 1)


def test_the_misfit_is_the_sum_over_pixels_and_entries_by_hand():
    model = make()
    params, found = model.init(KEY), seen(model)
    _, output = model.loss(params, KEY, found)
    expected = model.predict(params, output.posterior.latent).observation
    p, truth = np.asarray(expected["eye"].mean(), np.float64), np.asarray(found.timestep.observation["eye"][1:])
    bits = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).sum((-3, -2, -1))
    vector = -expected["pos"].log_prob(found.timestep.observation["pos"][1:])
    np.testing.assert_allclose(output.losses["reconstruction"], bits + vector, rtol=1e-4)


@pytest.mark.parametrize("objective", ["reconstruction", "infonce", "barlow"])
def test_the_objective_alone_teaches_the_encoder(objective):
    """Reconstruction has no say where another objective is asked for; its decoder learns all the same."""
    model = make(objective=objective)
    params, found = model.init(KEY), seen(model)

    def gradients(weights):
        def loss(params):
            losses = model.loss(params, KEY, found)[1].losses
            return sum((weight * losses[name].mean() for name, weight in weights.items()), start=jnp.float32(0))

        norm = lambda net: sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(net))
        return {name: norm(net) for name, net in jax.jit(jax.grad(loss))(params).items()}

    drawn = gradients({"reconstruction": 1.0})
    assert drawn["decoder_eye"] > 0
    if objective == "reconstruction":
        assert "alignment" not in model.weights
        assert drawn["encoder_eye"] > 0
        return
    assert drawn["encoder_eye"] == drawn["dynamics"] == 0
    aligned = gradients({"alignment": 1.0})
    assert min(aligned[name] for name in ("encoder_eye", "predictor", "projector", "posterior")) > 0
    assert aligned["decoder_eye"] == 0


def test_shifting_moves_all_steps_of_a_sequence_alike():
    model = make(images=dataclasses.replace(IMAGES, shift=2))
    found = seen(model)
    moved = model.senses.shifted(KEY, found)
    hits = []
    same = lambda x, by: np.roll(np.asarray(x), by, (2, 3))[:, :, 2:-2, 2:-2]
    for b in range(2):
        before, after = (np.asarray(s.timestep.observation["eye"])[:, b : b + 1] for s in (found, moved))
        found_at = [(y, x) for y in range(-2, 3) for x in range(-2, 3)
                    if (same(before, (y, x)) == after[:, :, 2:-2, 2:-2]).all()]
        assert len(found_at) == 1
        hits += found_at
    assert hits[0] != hits[1]  # with this key
    np.testing.assert_array_equal(moved.timestep.observation["pos"], found.timestep.observation["pos"])
    assert model.loss(model.init(KEY), KEY, found)[1].losses["reconstruction"].shape == (4, 2)


def test_what_is_seen_decides_the_filtered_state():
    model = make(EYE)
    found = seen(model, EYE)
    params, start = model.init(KEY), model.initial(2)
    other = found._replace(timestep=found.timestep._replace(observation=1 - found.timestep.observation))
    one, two = (model.observe(params, KEY, start, s).statistics for s in (found, other))
    assert not np.allclose(one, two)
