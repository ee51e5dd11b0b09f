"""Figures of agents side by side."""

import io

import numpy as np
import pytest
from PIL import Image

from mbrl.viz import comparison

STEPS = np.arange(1, 6) * 1000.0
BAND = (STEPS, STEPS, STEPS - 100, STEPS + 200)
BARE = (STEPS, STEPS, None, None)
LONG = "an agent whose name goes on and on (" + ", ".join(f"setting_{n}={n}" for n in range(9)) + ")"


@pytest.mark.parametrize(
    "content",
    [
        lambda: comparison.learning_curves({"t": {"a": BAND, "b": BARE}}, ["a", "b"], {"t": {"a": [(STEPS, STEPS)]}}),
        lambda: comparison.learning_curves({"t": {"a": (STEPS[:1], [3.0], None, None)}}, ["a"], {}),
        lambda: comparison.learning_curves({"t": {"a": ([], [], [], [])}}, ["a"], {}),
        lambda: comparison.learning_curves({str(n): {LONG: BAND} for n in range(4)}, [LONG, "b"], {}),
        lambda: comparison.profiles(STEPS / 5e3, {"a": BAND, LONG: BARE}, ["a", "b", LONG]),
        lambda: comparison.improvements([("a", "b", 0.5, None), (LONG, "b", 1.0, (0.9, 1.0))]),
        lambda: comparison.improvements([("a", "b", 0.7, (0.4, 0.9))]),
    ],
)
def test_every_figure_is_a_picture_also_of_little(content):
    with Image.open(io.BytesIO(content())) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 100


def test_an_agent_has_one_colour_in_all_figures(drawn):
    agents = [f"agent {n}" for n in range(10)]
    comparison.learning_curves({"x": {"agent 9": BAND}, "y": dict.fromkeys(agents, BAND)}, agents, {})
    comparison.profiles(STEPS, {"agent 9": BAND, "agent 1": BARE}, agents)
    alone, every, profiles = (
        {line.get_label(): (line.get_color(), line.get_linestyle()) for line in ax.lines}
        for figure in drawn for ax in figure.axes
    )
    assert alone == {"agent 9": every["agent 9"]}
    assert profiles == {name: every[name] for name in ("agent 9", "agent 1")}
    assert len(set(every.values())) == len(agents)
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == agents


def test_curves_show_their_numbers_and_single_runs_thinly(drawn):
    comparison.learning_curves({"task": {"a": BAND, "b": BARE}}, ["a", "b"], {"task": {"a": [(STEPS, 2 * STEPS)]}})
    (ax,) = drawn[0].axes
    thin, a, b = ax.lines
    np.testing.assert_allclose(thin.get_ydata(), 2 * STEPS)
    assert thin.get_linewidth() < a.get_linewidth()
    np.testing.assert_allclose([a.get_ydata(), b.get_ydata()], [STEPS, STEPS])
    (band,) = ax.collections
    assert {STEPS[0] - 100, STEPS[0] + 200} <= set(band.get_paths()[0].vertices[:, 1])
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("task", "env steps", "return of an episode")


def test_only_outer_panels_name_their_axes(drawn):
    comparison.learning_curves({f"task {n}": {"a": BAND} for n in range(4)}, ["a"], {})
    shown = [ax for ax in drawn[0].axes if ax.get_visible()]
    assert [bool(ax.get_xlabel()) for ax in shown] == [False, True, True, True]
    assert [bool(ax.get_ylabel()) for ax in shown] == [True, False, False, True]


def test_pairs_stand_below_each_other_with_their_intervals(drawn):
    comparison.improvements([("a", "b", 0.7, (0.4, 0.9)), ("c", "d", 0.5, None)])
    (ax,) = drawn[0].axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a\nover b", "c\nover d"]
    half, interval, first, second = (line.get_xdata() for line in ax.lines)
    assert [list(half), list(interval), list(first), list(second)] == [[0.5, 0.5], [0.4, 0.9], [0.7], [0.5]]
    bottom, top = ax.get_ylim()
    assert bottom > top
