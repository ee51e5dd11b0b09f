"""A sweep as figures; like those of ``figures``, each is the bytes of a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mbrl.viz import figures
from mbrl.viz.comparison import style
from mbrl.viz.figures import BLUE, GREY, PNG, SOFT

_COLUMNS = 3


def scores(settings: Mapping[str, tuple[Sequence[Any], bool]], score: ArrayLike, whole: ArrayLike, metric: str) -> PNG:
    """Draw scores over each setting, one panel for each.

    Args:
        settings: by name, the values of T trials and whether they lie on a logarithmic axis; text lies side by side.
        score: ``[T]``.
        whole: ``[T]``, whether a trial came to its end; the others are hollow.
        metric: what the score is.
    """
    columns = min(_COLUMNS, len(settings))
    rows = -(-len(settings) // columns)
    figure, axes = figures.panels(rows, columns, (7.2 if columns == 1 else 3.7 * columns, 2.6 * rows))
    filled = np.where(np.asarray(whole), BLUE, "none")
    for ax, (name, (values, logarithmic)) in zip(axes.flat, settings.items(), strict=False):
        words = any(isinstance(value, str | bool) for value in values)
        ax.scatter([str(value) for value in values] if words else values, score, color=filled, edgecolors=BLUE, s=28)
        if logarithmic:
            ax.set_xscale("log")
        figures.titled(ax, name)
    for ax in axes.flat[len(settings) :]:
        ax.set_visible(False)
    for row in axes:
        row[0].set_ylabel(metric)
    return figures.png(figure)


def curves(runs: Mapping[int, tuple[ArrayLike, ArrayLike]], named: Sequence[int], metric: str) -> PNG:
    """Draw every trial's curve.

    Args:
        runs: by a trial's number, env steps and values.
        named: trials that stand out with a colour and a name, the best first.
        metric: what the values are.
    """
    figure, ((ax,),) = figures.panels(1, 1, (7.2, 3.6))
    for number, (steps, values) in runs.items():
        if number not in named:
            ax.plot(steps, values, color=GREY, linewidth=0.9, alpha=0.6)
    for place, number in enumerate(name for name in named if name in runs):
        ax.plot(*runs[number], linewidth=1.8, marker="o", markersize=3.5, label=f"trial {number}", **style(place))
    figures.thousands(ax)
    ax.set(xlabel="env steps", ylabel=metric)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8.5, ncols=5, labelcolor=SOFT)
    return figures.png(figure)
