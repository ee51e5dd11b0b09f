import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.core.errors import UserError
from mbrl.nets.heads import Head, VectorDecoder, VectorEncoder, refuse_images, vector_shapes

SHAPES = (("arm", (2,)), ("grid", (2, 3)), ("time", ()))


def observation(*lead):
    rng = np.random.default_rng(0)
    drawn = {name: jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32) for name, shape in SHAPES}
    return dict(reversed(drawn.items()))


def test_shapes_are_sorted_by_name():
    spec = {"b": specs.Array((3,), np.float32), "a": specs.Array((), np.float32)}
    assert list(vector_shapes(spec).items()) == [("a", ()), ("b", (3,))]
    assert vector_shapes(specs.Array((4,), np.float32)) == {"state": (4,)}
    assert vector_shapes({"bytes": specs.Array((4,), np.uint8)}) == {"bytes": (4,)}


def test_images_are_refused_in_a_sentence():
    spec = {"camera": specs.Array((64, 64, 3), np.uint8), "joints": specs.Array((4,), np.float32)}
    with pytest.raises(UserError) as error:
        refuse_images(spec)
    sentence = "observation 'camera' is an image (64, 64, 3); this world model reads vectors (float arrays)"
    assert str(error.value) == sentence
    assert vector_shapes(spec) == {"joints": (4,)}
    refuse_images(spec["joints"])


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({}, "the observation is an empty dict; a world model needs at least one vector or image"),
        (
            {"a": specs.Array((2,), np.float32), "b": specs.Array((3, 0), np.float32)},
            "observation 'b' has shape (3, 0) and so holds no numbers; leave it out",
        ),
        (
            specs.Array((8, 8, 0), np.uint8),
            "observation 'state' has shape (8, 8, 0) and so holds no numbers; leave it out",
        ),
    ],
)
def test_an_observation_of_nothing_is_refused_in_a_sentence(spec, sentence):
    with pytest.raises(UserError) as error:
        vector_shapes(spec)
    assert str(error.value) == sentence


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_the_encoder_reads_sorted_keys_through_symlog(lead):
    # Without layers the tokens are the inputs themselves.
    seen, encoder = observation(*lead), VectorEncoder(("arm", "grid", "time"), 0, 9)
    tokens = encoder.apply({}, seen, lead)
    joined = np.concatenate([np.asarray(seen[name]).reshape(*lead, -1) for name, _ in SHAPES], -1)
    np.testing.assert_allclose(tokens, np.sign(joined) * np.log(1 + abs(joined)), rtol=1e-5)


def test_the_encoder_takes_integers():
    tokens = VectorEncoder(("bytes",), 0, 1).apply({}, {"bytes": jnp.array([255], jnp.uint8)}, ())
    np.testing.assert_allclose(tokens, [np.log(256)], rtol=1e-6)


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_the_decoder_predicts_every_key_flat(lead):
    features, decoder = jnp.ones((*lead, 4)), VectorDecoder(SHAPES, 1, 5)
    heads, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), features)
    shapes = {name: head.prediction.shape for name, head in heads.items()}
    assert shapes == {"arm": (*lead, 2), "grid": (*lead, 6), "time": (*lead, 1)}


def test_a_head_of_scale_zero_starts_silent_but_learns():
    features, head = jax.random.normal(jax.random.key(1), (3, 4)), Head(1, 5, 2, outscale=0.0)
    params = head.init(jax.random.key(0), features)
    np.testing.assert_array_equal(head.apply(params, features), np.zeros((3, 2)))
    grads = jax.grad(lambda params: head.apply(params, features).sum())(params)["params"]
    assert (grads["Dense_0"]["kernel"] != 0).any()


def test_outscale_scales_the_first_outputs():
    features, key = jax.random.normal(jax.random.key(1), (3, 4)), jax.random.key(0)
    one, tenth = (Head(1, 5, 2, outscale=scale).init_with_output(key, features)[0] for scale in (1.0, 0.1))
    np.testing.assert_allclose(tenth, 0.1 * one, rtol=1e-5)
