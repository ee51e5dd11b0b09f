"""Figures: valid pictures that show the numbers they were given, and leave nothing behind."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from mbrl.viz import figures

NONE = ([], [])
STEPS = np.arange(1, 6) * 1000


def is_png(content):
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.format == "PNG" and min(image.size) > 200 and len(set(image.convert("L").tobytes())) > 5


@pytest.mark.parametrize(
    "content",
    [
        lambda: figures.learning_curve((STEPS, STEPS), (STEPS[::2], STEPS[::2]), STEPS[::2] / 10),
        lambda: figures.learning_curve((STEPS[:1], [3.0]), NONE),
        lambda: figures.learning_curve(NONE, NONE),
        lambda: figures.small_multiples({f"loss {i}": (STEPS, STEPS / 7) for i in range(4)}),
        lambda: figures.small_multiples({"alone": ([5.0], [1.0])}),
        lambda: figures.episodes([1.0, 2.0, 9.0], [10, 20, 90], [True, True, False], (1.5, 8.0)),
        lambda: figures.episodes([0.0], [1], [True], (0.0, 0.0)),
        lambda: figures.open_loop({"a": (np.arange(4), np.ones(4)), "b": (np.full(4, np.nan), np.full(4, np.nan))}),
        lambda: figures.over_horizon({"a": {"x": np.arange(4), "y": np.full(4, np.nan)}, "b": {"y": np.ones(4)}}),
        lambda: figures.over_horizon({"a": {"x": [np.nan]}}),
        lambda: figures.calibration([("p", "q", {"filtered": (STEPS, STEPS, STEPS), "open loop": (*NONE, [])})]),
        lambda: figures.calibration([("p", "q", {"filtered": (*NONE, [])})]),
        lambda: figures.returns(STEPS, STEPS, STEPS, STEPS / 1e4),
        lambda: figures.returns([], [], [], []),
        lambda: figures.dream_lines(np.zeros((9, 4)), np.ones((9, 4)), 3, list("abcd")),
        lambda: figures.dream_lines(np.zeros((2, 1)), np.full((2, 1), np.nan), 1, ["a"]),
    ],
)
def test_every_figure_is_a_picture_also_of_little(content):
    assert is_png(content())


def test_figures_leave_no_settings_behind():
    before = dict(matplotlib.rcParams)
    figures.learning_curve((STEPS, STEPS), NONE)
    assert dict(matplotlib.rcParams) == before


def test_the_same_numbers_give_the_same_bytes():
    one, two = (figures.small_multiples({"a": (STEPS, STEPS)}) for _ in range(2))
    assert one == two


def test_open_loop_errors_stand_over_steps_ahead(drawn):
    figures.open_loop({"state": ([0.1, 0.2, np.nan], [0.5, 0.6, np.nan])})
    (ax,) = drawn[0].axes
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    np.testing.assert_allclose(lines["world model"][:2], [[1, 0.1], [2, 0.2]])
    np.testing.assert_allclose(lines["copy of the last state"][:2], [[1, 0.5], [2, 0.6]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("steps ahead", "RMS error (standard deviations)")
    assert ax.get_xlim() == (0, 2)


def test_a_predictor_has_the_same_line_in_every_panel_over_the_horizon(drawn):
    figures.over_horizon({"bits": {"model": [0.1, 0.2], "copy": [0.5, np.nan]}, "far": {"copy": [3.0], "floor": [1.0]}})
    bits, far = drawn[0].axes
    lines = [{line.get_label(): line for line in ax.lines} for ax in (bits, far)]
    np.testing.assert_allclose(lines[0]["model"].get_xydata(), [[1, 0.1], [2, 0.2]])
    np.testing.assert_allclose(lines[1]["floor"].get_xydata(), [[1, 1]])
    look = lambda line: (line.get_color(), line.get_linestyle())
    assert look(lines[0]["copy"]) == look(lines[1]["copy"])
    assert len({look(line) for panel in lines for line in panel.values()}) == 3
    assert (bits.get_ylabel(), bits.get_xlabel(), bits.get_xlim()) == ("bits", "steps ahead", (0, 2))


def test_a_dream_begins_at_the_last_step_seen(drawn):
    figures.dream_lines(np.arange(5.0)[:, None], -np.arange(5.0)[:, None], 2, ["x"])
    real, dreamt = (line.get_xydata() for line in drawn[0].axes[0].lines)
    np.testing.assert_allclose(real, [[-1, 0], [0, 1], [1, 2], [2, 3], [3, 4]])
    np.testing.assert_allclose(dreamt, [[0, -1], [1, -2], [2, -3], [3, -4]])


def test_episodes_are_sorted_and_told_apart_by_their_end(drawn):
    figures.episodes([5.0, 1.0, 3.0], [50, 10, 30], [False, True, True], (2.0, 4.0))
    limit, terminated = (dots.get_offsets() for dots in drawn[0].axes[0].collections)
    np.testing.assert_allclose(limit, [[3, 5]])
    np.testing.assert_allclose(terminated, [[1, 1], [2, 3]])


def test_both_axes_of_a_calibration_show_the_same_range(drawn):
    figures.calibration([("predicted", "came", {"filtered": ([0.0, 1.0], [2.0, 3.0], [5, 9])})])
    (ax,) = drawn[0].axes
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_xlim()[0] < 0
    assert ax.get_xlim()[1] > 3


def test_a_scatter_is_thinned(drawn):
    many = np.arange(10_000.0)
    figures.returns(many, many, many, np.zeros(10_000))
    assert len(drawn[0].axes[0].collections[0].get_offsets()) == figures._DOTS
