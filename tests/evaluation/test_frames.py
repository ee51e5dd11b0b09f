"""Predicted frames against true ones, worked by hand where a hand can."""

import numpy as np
import pytest
from dm_env import specs

from mbrl.evaluation import frames
from mbrl.evaluation.frames import Recorded, assess_frames


def recorded(truth, predicted=None, first=(0,), action=None, top=255):
    """A recording whose prediction is the truth itself, if no other is given."""
    truth = np.asarray(truth, np.uint8)
    T, N = truth.shape[:2]
    begins = np.zeros((T, N), bool)
    begins[list(first)] = True
    action = np.zeros((T, N, 1), np.float32) if action is None else action
    return Recorded(truth, truth if predicted is None else np.asarray(predicted, np.float32), action, begins, top)


def rolling(T, N, side=6, top=255, seed=0):
    """Frames whose rows move one down each step: linear dynamics; a new frame at every 10th step."""
    rng = np.random.default_rng(seed)
    shown = [(rng.random((N, side, side, 1)) < 0.4) * np.uint8(top) for _ in range(T // 10)]
    return np.stack([np.roll(shown[t // 10], t % 10, axis=1) for t in range(T)])


def test_bits_of_binary_images_by_hand():
    real = np.array([0.0, 1.0, 1.0, 0.0], np.float32)
    assert frames.binary_bits(np.full(4, 0.5, np.float32), real) == pytest.approx(1)
    assert frames.binary_bits(np.full(4, 0.25, np.float32), real) == pytest.approx((2 + np.log2(4 / 3)) / 2)
    assert frames.binary_bits(real, real) == pytest.approx(-np.log2(1 - frames.CLIP), rel=1e-3)
    assert frames.binary_bits(1 - real, real) == pytest.approx(-np.log2(frames.CLIP))


def entropy(p):
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def test_a_baselines_frames_cost_as_few_bits_as_two_numbers_can_make_them():
    # Of 20 pixels that are on 15 stay on, of 80 that are off 4 come on.
    x, real = np.repeat(np.float32([1, 1, 0, 0]), (15, 5, 4, 76)), np.repeat(np.float32([1, 0, 1, 0]), (15, 5, 4, 76))
    likely = frames.as_probability(x, real)
    np.testing.assert_allclose(likely[[0, -1]], [0.75, 0.05], atol=1e-4)
    assert frames.binary_bits(likely, real) == pytest.approx(0.2 * entropy(0.75) + 0.8 * entropy(0.05), rel=1e-4)
    # Where values in between are on once in 50, and 0 and 1 are met. A line through that would miss them all.
    times = 300, 98, 2, 100
    x, real = np.repeat(np.float32([0, 0.5, 0.5, 1]), times), np.repeat(np.float32([0, 0, 1, 1]), times)
    found = frames.binary_bits(frames.as_probability(x, real), real)
    assert found == pytest.approx(0.2 * entropy(0.02), abs=0.003)
    assert frames.binary_bits(frames.as_probability(1 - x, real), real) == pytest.approx(found, abs=1e-3)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_frames_of_one_value_have_the_probability_that_a_pixel_is_on(level):
    x, real = np.full((1, 2, 4, 1), level, np.float32), np.eye(2, 4, dtype=np.float32)[None, ..., None]
    np.testing.assert_allclose(frames.as_probability(x, real), np.full((1, 2, 4, 1), 0.25), atol=1e-4)
    assert np.isnan(frames.as_probability(np.full(2, np.nan, np.float32), np.ones(2, np.float32))).all()


def test_the_logistic_gives_256_values_all_of_its_mass():
    values = np.arange(256, dtype=np.float32)
    for mean, scale, share in ((0.0, 3.0, 0.0), (100.3, 20.0, 0.2), (255.0, 0.5, 0.01), (128.0, 90.0, 0.0)):
        bits = [frames.logistic_bits(np.float32([mean]), values[v : v + 1], scale, share) for v in range(256)]
        assert np.sum(2.0 ** -np.array(bits)) == pytest.approx(1, rel=1e-4)


def test_bits_of_colours_by_hand():
    zero, ten = np.zeros(1, np.float32), np.full(1, 10, np.float32)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    assert frames.logistic_bits(ten, ten, 0.5) == pytest.approx(-np.log2(sigmoid(1) - sigmoid(-1)), rel=1e-5)
    assert frames.logistic_bits(zero, zero, 0.5) == pytest.approx(-np.log2(sigmoid(1)), rel=1e-5)  # all below, too
    assert frames.logistic_bits(zero, ten, 0.5, share=1.0) == pytest.approx(8)


def test_noise_costs_eight_bits_and_what_is_known_none():
    real = np.random.default_rng(0).integers(0, 256, 20_000).astype(np.float32)
    assert frames.colour_bits(np.full_like(real, 128), real) == pytest.approx(8, abs=0.05)
    assert frames.colour_bits(real, real) < 0.01
    assert np.isnan(frames.colour_bits(np.full_like(real, np.nan), real))
    # A tenth of the pixels is anything, the rest is met: H(1/10) + 8/10 bits, whatever the logistic does.
    mixed = np.where(np.arange(20_000) % 10 == 0, real, 100).astype(np.float32)
    assert frames.colour_bits(np.full_like(real, 100), mixed) == pytest.approx(0.469 + 0.8, abs=0.06)


@pytest.mark.parametrize("shape", [(3, 16, 16, 1), (2, 40, 36, 3), (1, 4, 5, 1), (1, 1, 9, 2)])
def test_equal_frames_are_similar_and_their_negatives_are_not(shape):
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    np.testing.assert_allclose(frames.similarity(image, image), 1, atol=1e-5)
    assert (frames.similarity(1 - image, image) < 0.6).all()


def test_similarity_of_two_flat_frames_by_hand():
    # Without variance only the means count: (2 a b + c) / (a^2 + b^2 + c), c = 0.01^2.
    a, b = np.full((1, 16, 16, 1), 0.2, np.float32), np.full((1, 16, 16, 1), 0.6, np.float32)
    np.testing.assert_allclose(frames.similarity(a, b), (0.24 + 1e-4) / (0.4 + 1e-4), rtol=1e-4)


def test_similarity_is_that_of_scikit_image():
    x, y = np.mgrid[:40, :40].astype(np.float32) / 40
    one, other = np.sin(9 * x + y) ** 2, np.sin(9 * x + 1.3 * y) ** 2
    pair = (np.stack([one, other], -1)[None], np.stack([other, other], -1)[None])
    # skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    # data_range=1, channel_axis=-1) of version 0.26.0
    np.testing.assert_allclose(frames.similarity(*pair), 0.95017946, atol=2e-5)


@pytest.mark.parametrize("top", [1, 255])
def test_a_still_recording_is_known_to_who_copies_it(top):
    image = (np.random.default_rng(0).random((1, 2, 8, 8, 1)) < 0.5) * top
    truth = np.repeat(image, 8, axis=0)
    score = assess_frames(recorded(truth, np.full(truth.shape, top / 2), top=top), 2, 2)
    for who in ("copy", "linear"):
        np.testing.assert_allclose(score.curves[who].mse, 0, atol=1e-9)
        np.testing.assert_allclose(score.curves[who].ssim, 1, atol=1e-5)
        assert (score.curves[who].bits < 0.01).all()
    model = score.curves["model"]
    np.testing.assert_allclose(model.mse, 0.25)
    # Of colours the widest logistic, which leaves each end what lies beyond it, is best.
    wanted = 1 if top == 1 else np.log2(1 + np.exp(127 / 256))
    np.testing.assert_allclose(model.bits, wanted, rtol=1e-2)
    np.testing.assert_array_equal(score.windows, [4, 4])


@pytest.mark.parametrize("top", [1, 255])
def test_linear_regression_predicts_what_is_linear_and_copying_does_not(top):
    truth = rolling(200, 4, top=top)
    score = assess_frames(recorded(truth, first=range(0, 200, 10), top=top), 3, 7)
    np.testing.assert_allclose(score.curves["linear"].mse, 0, atol=1e-3)
    assert (score.curves["copy"].mse[:5] > 0.2).all()
    assert (score.curves["linear"].bits < 0.3 * score.curves["copy"].bits)[:5].all()
    np.testing.assert_allclose(score.curves["copy"].mse[5], 0, atol=1e-9)  # six steps on, it is back where it was


def test_linear_regression_knows_the_actions():
    rng = np.random.default_rng(0)
    action = rng.integers(0, 2, (300, 2, 1)).astype(np.float32)
    truth = np.zeros((300, 2, 4, 4, 1), np.uint8)
    truth[1:] = (100 * action[:-1, :, :, None, None]).astype(np.uint8)  # the frame's brightness is the last action
    score = assess_frames(recorded(truth, action=action), 2, 3)
    np.testing.assert_allclose(score.curves["linear"].mse, 0, atol=1e-6)
    assert (score.curves["copy"].mse > 0.03).all()


def test_what_lies_behind_a_border_does_not_count():
    truth = np.zeros((8, 1, 8, 8, 1), np.uint8)
    truth[4:] = 255
    score = assess_frames(recorded(truth, np.zeros_like(truth), first=(0, 4)), 2, 6)
    np.testing.assert_array_equal(score.windows, [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(score.curves["model"].mse, [0, 0] + [np.nan] * 4)
    np.testing.assert_array_equal(score.curves["copy"].ssim[2:], np.nan)
    np.testing.assert_array_equal(score.error[:, 0], 0)
    # A single window leaves no other one to fit linear regression on.
    assert np.isnan(score.curves["linear"].mse).all()


def test_the_error_of_each_window_is_kept():
    truth = np.zeros((6, 2, 8, 8, 1), np.uint8)
    predicted = truth.astype(np.float32)
    predicted[4, 1] = 51  # second window, second environment, one step ahead: 0.2 of the range
    error = assess_frames(recorded(truth, predicted), 1, 2).error
    np.testing.assert_allclose(error, [[0, 0, 0, 0.04], [0, 0, 0, 0]], rtol=1e-5)


def test_a_prediction_beyond_the_range_is_clipped_to_it():
    truth = np.full((4, 2, 8, 8, 1), 255)
    score = assess_frames(recorded(truth, truth + 90.0), 1, 1)
    np.testing.assert_array_equal(score.curves["model"].mse, 0)


def test_images_and_their_range_are_told_by_their_spec():
    spec = {
        "camera": specs.Array((64, 64, 3), np.uint8),
        "boxes": specs.BoundedArray((16, 16, 1), np.uint8, 0, 1),
        "bytes": specs.Array((9,), np.uint8),
        "state": specs.Array((9,), np.float32),
    }
    assert frames.image_tops(spec) == {"camera": 255, "boxes": 1}
