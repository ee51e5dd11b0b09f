"""Where bodies are in frames, read off by a regression and judged on frames it has not seen."""

import numpy as np
import pytest

from mbrl.evaluation.frames import Recorded, assess_frames
from mbrl.evaluation.positions import Positions, ordered

SIDE = 12


def discs(T, N, radii, seed=0):
    """Binary frames of discs that are anywhere, and where they are: [T, N, 2 B]."""
    where = np.random.default_rng(seed).uniform(0.2, 0.8, (T, N, len(radii), 2))
    grid = (np.arange(SIDE) + 0.5) / SIDE
    x, y = (grid - where[..., i, None] for i in (0, 1))  # [T, N, B, SIDE]
    inside = x[..., None, :] ** 2 + y[..., :, None] ** 2 < np.array(radii)[:, None, None] ** 2
    return inside.any(axis=2)[..., None].astype(np.uint8), where.reshape(T, N, -1)


def score(truth, predicted, positions, horizon=2):
    T, N = truth.shape[:2]
    recording = Recorded(truth, predicted, np.zeros((T, N, 1), np.float32), np.zeros((T, N), bool), 1)
    return assess_frames(recording, 1, horizon, positions).positions


def test_a_disc_is_found_to_a_fraction_of_a_pixel_and_a_shifted_one_where_it_is():
    truth, where = discs(240, 2, (0.17,))
    found = score(truth, np.roll(truth, 1, axis=3), Positions(where, ("ball.x", "ball.y")))
    assert found.bodies == ("ball",)
    assert (found.distance["floor"] < 0.3 / SIDE).all()
    np.testing.assert_allclose(found.distance["model"], 1 / SIDE, rtol=0.15)  # a pixel off along x
    # Copying knows nothing of a disc that is anywhere next: sqrt(2 (0.6^2 / 6)) on average
    np.testing.assert_allclose(found.distance["copy"], 0.6 / np.sqrt(3), rtol=0.1)


def test_a_soft_frame_is_read_like_a_sharp_one():
    truth, where = discs(400, 2, (0.2,))
    soft = sum(np.roll(truth, shift, axis) for axis in (2, 3) for shift in (-1, 0, 1)) / 6
    found = score(truth, soft.astype(np.float32), Positions(where, ("ball.x", "ball.y")), horizon=1)
    assert (found.distance["model"] < 1.5 * found.distance["floor"]).all()
    assert (found.distance["floor"] < 0.02).all()


def test_two_bodies_are_told_apart_by_their_size():
    truth, where = discs(1600, 2, (0.22, 0.12))
    found = score(truth, truth, Positions(where, ("big.x", "big.y", "small.x", "small.y")), horizon=1)
    assert found.bodies == ("big", "small")
    assert (found.distance["floor"] < [[1 / SIDE, 2 / SIDE]]).all()
    np.testing.assert_array_equal(found.distance["model"], found.distance["floor"])


def test_bodies_that_look_alike_go_from_left_to_right():
    values = np.array([[[5.0, 1.0, 2.0, 7.0, 3.0]], [[1.0, 1.0, 2.0, 7.0, 3.0]]])
    positions = ordered(Positions(values, ("a.x", "a.y", "b.x", "b.y", "c")), (("a", "b"),))
    np.testing.assert_array_equal(positions.values[:, 0], [[2, 7, 5, 1, 3], [1, 1, 2, 7, 3]])
    assert positions.bodies == ("a", "b", "c")
    np.testing.assert_array_equal(values[0, 0], [5, 1, 2, 7, 3])  # what was given is as it was


@pytest.mark.parametrize("N", [1, 3])
def test_what_cannot_be_fitted_is_not_a_number(N):
    truth, where = discs(2, N, (0.2,))
    found = score(truth, truth, Positions(where[..., :1], ("x",)), horizon=1)
    assert found.bodies == ("x",)
    assert np.isnan(found.distance["model"]).all()
