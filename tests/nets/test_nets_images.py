import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.core.errors import UserError
from mbrl.nets.images import ImageConfig, ImageDecoder, ImageEncoder, pictures, shift

CONFIG = ImageConfig(depth=2, multiples=(1, 2, 4, 4))


def image(height, width, channels=1, most=255):
    return specs.BoundedArray((height, width, channels), np.uint8, 0, most)


def picture(spec, config=CONFIG, blocks=2):
    return pictures({"eye": spec, "arm": specs.Array((3,), np.float32)}, config, blocks)["eye"]


def test_only_bytes_with_three_axes_are_images():
    spec = {"b": image(8, 8), "a": image(16, 8, 3), "bytes": specs.Array((8, 8), np.uint8), "x": specs.Array((), float)}
    assert list(pictures(spec, CONFIG, 2)) == ["a", "b"]
    assert pictures(specs.Array((3,), np.float32), ImageConfig(), 2) == {}


@pytest.mark.parametrize(
    ("sides", "depths", "inner"),
    [
        ((64, 64), (2, 4, 8, 8), (4, 4, 8)),
        ((16, 32), (8, 8), (4, 8, 8)),  # fewer stages: the last ones
        ((128, 192), (2, 4, 8, 8, 8), (4, 6, 8)),  # more: the very last again
        ((20, 12), (8,), (10, 6, 8)),
    ],
)
def test_an_image_is_halved_until_its_shorter_side_is_small(sides, depths, inner):
    found = picture(image(*sides))
    assert (found.depths, found.inner) == (depths, inner)


def test_images_of_zero_and_one_are_binary():
    assert picture(image(8, 8, most=1)).binary
    assert not picture(image(8, 8)).binary
    assert not picture(specs.Array((8, 8, 1), np.uint8)).binary


@pytest.mark.parametrize(
    ("spec", "changes", "sentence"),
    [
        (image(60, 64), {}, "60 x 64 pixels, which cannot be halved"),
        (image(6, 64), {}, "6 x 64 pixels, which cannot be halved"),
        (image(8, 8), {"depth": None}, "images.depth must be at least 1; got None"),
        (image(8, 8), {"multiples": ()}, "images.multiples must be numbers"),
        (image(8, 8), {"multiples": (2, 1), "depth": 3}, r"multiple of worldmodel.blocks \(2\); got 3 x 1"),
        (image(8, 8), {"kernel": 4}, "images.kernel must be odd and at least 3, or 2 with sampling stride; got 4 with"),
        (image(8, 8), {"kernel": 2}, "or 2 with sampling stride; got 2 with pool"),
        (image(8, 8), {"kernel": 4, "sampling": "stride"}, "or 2 with sampling stride; got 4 with stride"),
        (image(8, 8), {"sampling": "blur"}, "images.sampling"),
        (image(8, 8), {"loss": "huber"}, "images.loss"),
        (image(8, 8), {"shift": -1}, "images.shift must be at least 0; got -1"),
        (image(8, 16), {"shift": 8}, "images.shift must be less than the 8 pixels of 'eye'; got 8"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(spec, changes, sentence):
    # As it would come from a caller who does not check types.
    config = dataclasses.replace(CONFIG)
    for name, value in changes.items():
        object.__setattr__(config, name, value)
    with pytest.raises(UserError, match=sentence):
        picture(spec, config)


@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize(("sampling", "kernel"), [("pool", 5), ("stride", 5), ("stride", 2)])
def test_tokens_and_drawings_have_their_shapes(lead, sampling, kernel):
    found = picture(image(16, 8, 3))
    config = dataclasses.replace(CONFIG, sampling=sampling, kernel=kernel)
    encoder, decoder = ImageEncoder(found, config), ImageDecoder(found, config, 2, 5)
    key = jax.random.key(0)
    token, _ = jax.eval_shape(encoder.init_with_output, key, jnp.zeros((*lead, 16, 8, 3), jnp.uint8))
    drawn, _ = jax.eval_shape(decoder.init_with_output, key, jnp.zeros((*lead, 4)), jnp.zeros((*lead, 6)))
    assert token.shape == (*lead, 8 * 4 * 8)
    assert drawn.prediction.shape == (*lead, 16, 8, 3)


def test_a_pixel_is_seen_where_it_is():
    """With one stage, a kernel that copies the pixel itself, and its block's maximum, by hand."""
    config = ImageConfig(depth=2, multiples=(1,), kernel=3)
    encoder = ImageEncoder(picture(image(8, 8, most=1), config), config)
    seen = jnp.zeros((8, 8, 1), jnp.uint8).at[2, 5, 0].set(1)
    params = encoder.init(jax.random.key(0), seen)["params"]
    kernel = jnp.zeros((3, 3, 1, 2)).at[1, 1, 0].set(jnp.array([1.0, -1.0]))
    token = encoder.apply({"params": params | {"kernel_0": kernel}}, seen).reshape(4, 4, 2)
    # Elsewhere all pixels are -0.5: the maxima are -0.5 and 0.5. In the block of the bright one they are 0.5 and 0.5.
    silu = lambda x: x / (1 + np.exp(-x))
    one = 0.5 / np.sqrt(0.25 + 1e-4)
    expected = np.broadcast_to(np.array([silu(-one), silu(one)]), (4, 4, 2)).copy()
    expected[1, 2] = silu(one)
    np.testing.assert_allclose(token, expected, rtol=1e-4)


def test_blocks_that_do_not_overlap_are_seen_each_by_itself():
    """With a kernel of 2 and one stage, what is in one block of four pixels is in one place of the token."""
    config = ImageConfig(depth=2, multiples=(1,), sampling="stride", kernel=2)
    found = picture(image(8, 8), config)
    encoder = ImageEncoder(found, config)
    grey = jnp.full((8, 8, 1), 128, jnp.uint8)
    params = encoder.init(jax.random.key(0), grey)
    dot = grey.at[3, 6, 0].set(255)
    moved = (encoder.apply(params, dot) - encoder.apply(params, grey)).reshape(4, 4, 2)
    assert sorted(zip(*np.nonzero(np.abs(moved).sum(-1)), strict=True)) == [(1, 3)]


def test_every_block_of_the_state_has_its_own_channels_of_the_smallest_stage():
    found = picture(image(8, 8))
    decoder = ImageDecoder(found, CONFIG, 2, 5)
    params = decoder.init(jax.random.key(0), jnp.zeros(4), jnp.zeros(3))
    smallest = lambda deter: decoder.apply(params, deter, jnp.zeros(3), method="smallest")
    moved = smallest(jnp.array([0.0, 0, 1, 1])) - smallest(jnp.zeros(4))  # the second block of two
    assert (moved[..., :4] == 0).all()
    assert (moved[..., 4:] != 0).all()


def test_shifting_moves_by_the_difference_and_repeats_the_border():
    pixels = jnp.arange(16, dtype=jnp.uint8).reshape(4, 4, 1)
    by = lambda down, right: np.asarray(shift(pixels, jnp.array([down, right]), 1))[..., 0]
    np.testing.assert_array_equal(by(1, 1), np.asarray(pixels)[..., 0])
    np.testing.assert_array_equal(by(2, 1)[:, 0], [4, 8, 12, 12])
    np.testing.assert_array_equal(by(1, 0)[0], [0, 0, 1, 2])
    np.testing.assert_array_equal(shift(jnp.stack([pixels, pixels]), jnp.array([2, 1]), 1)[1, ..., 0], by(2, 1))
