"""Agents side by side as figures; like those of ``figures``, each is the bytes of a PNG."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from mbrl.viz import figures
from mbrl.viz.figures import BLUE, GREY, ORANGE, PNG, SOFT

# Over some x: a value, and the ends of its interval, None where it has none.
Band: TypeAlias = tuple[ArrayLike, ArrayLike, ArrayLike | None, ArrayLike | None]

_COLOURS = (BLUE, ORANGE, "#2f9e6e", "#8b5fbf", "#c9414f", "#1f9bb3", "#8c6d46", "#d667a6")
_STYLES = ("-", "--", ":", "-.")
_LABEL = 56  # characters of a line of a label


def learning_curves(
    tasks: Mapping[str, Mapping[str, Band]],
    agents: Sequence[str],
    each: Mapping[str, Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]]],
) -> PNG:
    """Draw returns over env steps, one panel for each task, with intervals.

    Args:
        tasks: by task and agent, the curve.
        agents: all of them; an agent has the same colour in all figures that were given the same ``agents``.
        each: by task and agent, the env steps and returns of every run, drawn thinly.
    """
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    width = 7.2 if columns == 1 else 3.7 * columns
    height = _legend_height(agents, 2 if columns > 1 else 1)
    figure, axes = figures.panels(rows, columns, (width, (3.2 if columns == 1 else 2.7) * rows + height))
    for ax, (task, curves) in zip(axes.flat, tasks.items(), strict=False):
        for agent, band in curves.items():
            look = style(agents.index(agent))
            for steps, returns in each.get(task, {}).get(agent, ()):
                ax.plot(steps, returns, color=look["color"], linewidth=0.7, alpha=0.3)
            _band(ax, band, agent, look, marker="o" if np.size(band[0]) < 2 else None)
        figures.titled(ax, "\n".join(textwrap.wrap(task, 40)))
        figures.thousands(ax)
        ax.margins(x=0.02)
    for ax in axes.flat[len(tasks) :]:
        ax.set_visible(False)
    for number, ax in enumerate(axes.flat[: len(tasks)]):
        if number + columns >= len(tasks):
            ax.set_xlabel("env steps")
        if number % columns == 0:
            ax.set_ylabel("return of an episode")
    _legend(figure, axes, agents, 2 if columns > 1 else 1)
    return figures.png(figure)


def profiles(taus: ArrayLike, shares: Mapping[str, Band], agents: Sequence[str]) -> PNG:
    """Draw the share of runs that score above each tau, with pointwise intervals.

    Args:
        taus: normalised scores ``[K]``.
        shares: by agent, the share over ``taus``.
        agents: all of them, as in ``learning_curves``.
    """
    figure, axes = figures.panels(1, 1, (7.2, 3.4 + _legend_height(agents, 1)))
    ax = axes[0, 0]
    for agent, band in shares.items():
        _band(ax, band, agent, style(agents.index(agent)), drawstyle="steps-post")
    ax.set(xlabel="normalised score τ", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
    room = 0.01 * np.ptp(taus)
    ax.set_xlim(np.min(taus) - room, np.max(taus) + room)
    _legend(figure, axes, agents, 1)
    return figures.png(figure)


def improvements(pairs: Sequence[tuple[str, str, float, tuple[float, float] | None]]) -> PNG:
    """Draw how probable it is that one agent does better than another; right of the middle line it does.

    Args:
        pairs: for each the better agent, the other one, the probability and its interval, None where it has none.
    """
    names = ["\n".join([*textwrap.wrap(x, _LABEL), *textwrap.wrap(f"over {y}", _LABEL)]) for x, y, _, _ in pairs]
    lines = [name.count("\n") + 1 for name in names]
    figure, axes = figures.panels(1, 1, (7.2, 0.9 + 0.2 * sum(lines) + 0.1 * len(lines)))
    ax = axes[0, 0]
    # Each pair takes as much height as its name.
    places = np.cumsum([0, *(0.5 * (a + b) + 0.5 for a, b in itertools.pairwise(lines))])
    ax.axvline(0.5, color=GREY, linewidth=1, linestyle="--")
    for place, (_, _, value, interval) in zip(places, pairs, strict=True):
        if interval is not None:
            ax.plot(interval, (place, place), color=BLUE, linewidth=5, alpha=0.35, solid_capstyle="butt")
        ax.plot(value, place, color=BLUE, marker="o", markersize=5.5, linestyle="none", clip_on=False, zorder=3)
    ax.set_yticks(places, names)
    ax.set_ylim(places[-1] + 0.5 * lines[-1] + 0.2, -0.5 * lines[0] - 0.2)
    ax.set(xlabel="probability of improvement", xlim=(0, 1))
    ax.grid(visible=False, axis="y")
    return figures.png(figure)


def style(number: int) -> dict[str, Any]:
    """Return colour and line of the agent at ``number``; colours come round again with another line."""
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _STYLES[number // len(_COLOURS) % len(_STYLES)]}


def _band(ax: Any, band: Band, label: str, look: Mapping[str, Any], **how: Any) -> None:
    """Draw a line and, where it has one, its interval."""
    x, value, low, high = band
    ax.plot(x, value, linewidth=1.8, label=label, **look, **how)
    if low is None or high is None:
        return
    step = {"step": "post"} if "drawstyle" in how else {}
    ax.fill_between(x, low, high, color=look["color"], alpha=0.17, linewidth=0, **step)


def _wrapped(agents: Sequence[str]) -> list[str]:
    return ["\n".join(textwrap.wrap(agent, _LABEL)) for agent in agents]


def _legend_height(agents: Sequence[str], columns: int) -> float:
    """Return the inches that the legend takes."""
    lines = sum(name.count("\n") + 1 for name in _wrapped(agents))
    return 0.2 * -(-lines // columns) + 0.05


def _legend(figure: Any, axes: np.ndarray, agents: Sequence[str], columns: int) -> None:
    """Write below the panels which line is which agent; each agent once, whichever panels it is in."""
    handles = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    shown = [agent for agent in agents if agent in handles]
    if not shown:
        return
    figure.legend(
        [handles[agent] for agent in shown], _wrapped(shown), loc="outside lower center", frameon=False, fontsize=8.5,
        ncols=min(columns, len(shown)), labelcolor=SOFT,
    )
