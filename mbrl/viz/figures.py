"""Numbers to figures; every function returns the bytes of a PNG and leaves nothing behind."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

PNG: TypeAlias = bytes
Bins: TypeAlias = tuple[ArrayLike, ArrayLike, ArrayLike]

INK, SOFT, GRID = "#1f2933", "#52606d", "#e4e7eb"
BLUE, ORANGE, GREY = "#3a78d6", "#e27a30", "#8a96a3"
_DOTS = 4000  # a scatter shows at most so many points


def panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, np.ndarray]:
    """Return a figure and its axes ``[rows, columns]`` in the house's look, without touching pyplot's state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(GREY)
        ax.grid(color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(colors=SOFT, labelsize=8.5, length=3)
        ax.xaxis.label.set(color=SOFT, size=9.5)
        ax.yaxis.label.set(color=SOFT, size=9.5)
    return figure, axes


def titled(ax: Any, name: str) -> None:
    """Write a panel's name above it."""
    ax.set_title(name, fontsize=10.5, color=INK)


def png(figure: Any) -> PNG:
    """Return a figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def learning_curve(
    train: tuple[ArrayLike, ArrayLike],
    evaluation: tuple[ArrayLike, ArrayLike],
    spread: ArrayLike | None = None,
    each: Sequence[tuple[ArrayLike, ArrayLike]] = (),
) -> PNG:
    """Draw returns over env steps.

    Args:
        train: env steps and mean return of the episodes that ended while collecting.
        evaluation: env steps and mean return of the evaluations.
        spread: standard deviation of each evaluation's returns, drawn as a band.
        each: the evaluations of every seed, where there are several.
    """
    figure, ((ax,),) = panels(1, 1, (7.2, 3.4))
    for number, curve in enumerate(each):
        ax.plot(*curve, color=BLUE, linewidth=0.8, alpha=0.45, label="evaluation of a seed" if number == 0 else None)
    marks: dict[str, Any] = {"marker": "o", "markersize": 3.5}
    if np.size(train[0]):
        ax.plot(*train, color=GREY, linewidth=1.2, label="while collecting", **(marks if np.size(train[0]) < 2 else {}))
    if np.size(evaluation[0]):
        label = "evaluation (mean)" if spread is None else "evaluation (mean ± std)"
        ax.plot(*evaluation, color=BLUE, linewidth=1.8, label=label, **marks)
    if spread is not None and np.size(spread):
        steps, mean, std = np.asarray(evaluation[0]), np.asarray(evaluation[1], float), np.asarray(spread, float)
        ax.fill_between(steps, mean - std, mean + std, color=BLUE, alpha=0.15, linewidth=0)
    thousands(ax)
    ax.set(xlabel="env steps", ylabel="return of an episode")
    _legend(ax)
    return png(figure)


def small_multiples(series: Mapping[str, tuple[ArrayLike, ArrayLike]], columns: int = 3) -> PNG:
    """Draw many curves over env steps, each in a panel of its own, named by its title."""
    columns = min(columns, max(1, len(series)))
    rows = max(1, -(-len(series) // columns))
    figure, axes = panels(rows, columns, (2.5 * columns + 0.3, 1.65 * rows + 0.25))
    for ax, (name, (steps, values)) in zip(axes.flat, series.items(), strict=False):
        ax.plot(steps, values, color=BLUE, linewidth=1.3, marker="o" if np.size(steps) < 2 else None)
        titled(ax, name)
        ax.margins(x=0.02)
        ax.ticklabel_format(axis="y", useOffset=False)
        thousands(ax)
    for ax in axes.flat[len(series) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("env steps")
    return png(figure)


def episodes(returns: ArrayLike, lengths: ArrayLike, terminated: ArrayLike, interval: tuple[float, float]) -> PNG:
    """Draw the episodes of an evaluation: returns beside their mean's interval, and returns over lengths.

    Args:
        returns: one for each episode.
        lengths: env steps of each.
        terminated: whether each ended by termination rather than by the time limit.
        interval: of the mean return, 95 %.
    """
    returns, lengths, terminated = np.asarray(returns), np.asarray(lengths), np.asarray(terminated, bool)
    figure, ((left, right),) = panels(1, 2, (7.2, 2.9))
    order = np.argsort(returns)
    left.axhspan(*interval, color=BLUE, alpha=0.15, linewidth=0, label="95 % interval of the mean")
    left.axhline(returns.mean(), color=BLUE, linewidth=1.4, label=f"mean {returns.mean():.1f}")
    for ended, colour, label in ((False, BLUE, "time limit"), (True, ORANGE, "terminated")):
        of_kind = terminated[order] == ended
        if not of_kind.any():
            continue
        left.scatter(np.arange(1, len(order) + 1)[of_kind], returns[order][of_kind], s=18, color=colour, zorder=3)
        right.scatter(lengths[terminated == ended], returns[terminated == ended], s=18, color=colour, label=label)
    left.set(xlabel="episode, sorted by return", ylabel="return")
    right.set(xlabel="length (env steps)", ylabel="return")
    left.xaxis.get_major_locator().set_params(integer=True)
    for ax in (left, right):
        _room(ax, returns)
        _legend(ax)
    return png(figure)


def open_loop(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> PNG:
    """Draw open-loop errors over the horizon, one panel for each quantity.

    Args:
        curves: by quantity, the error of the model and of copying the last state, k = 1..H steps ahead, in
            standard deviations of the quantity.
    """
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = panels(rows, columns, (3.6 * columns, 2.9 * rows))
    for ax, (name, (model, copy)) in zip(axes.flat, curves.items(), strict=False):
        ahead = np.arange(1, np.size(model) + 1)
        ax.plot(ahead, copy, color=GREY, linewidth=1.6, linestyle="--", label="copy of the last state")
        ax.plot(ahead, model, color=BLUE, linewidth=1.9, label="world model")
        ax.set(xlabel="steps ahead", ylabel="RMS error (standard deviations)")
        titled(ax, name)
        ax.set_ylim(bottom=0)
        ax.set_xlim(0, max([1, *ahead[np.isfinite(np.asarray(model, float))]]))
        ax.xaxis.get_major_locator().set_params(integer=True)
    for ax in axes.flat[len(curves) :]:
        ax.set_visible(False)
    _legend(axes.flat[0])
    return png(figure)


def over_horizon(panels_: Mapping[str, Mapping[str, ArrayLike]]) -> PNG:
    """Draw several predictors over the horizon, one panel for each measure.

    Args:
        panels_: by measure (with its unit, and what is better), by predictor, a value for k = 1..H steps ahead. A
            predictor has the same line in all of them.
    """
    columns = min(3, len(panels_))
    rows = -(-len(panels_) // columns)
    figure, axes = panels(rows, columns, (3.6 * columns, 2.9 * rows))
    names = list(dict.fromkeys(name for lines in panels_.values() for name in lines))
    looks = dict(zip(names, ((BLUE, "-"), (GREY, "--"), (ORANGE, "-."), (INK, ":")), strict=False))
    for ax, (measure, lines) in zip(axes.flat, panels_.items(), strict=False):
        for name, values in reversed(list(lines.items())):  # the first one on top
            colour, style = looks[name]
            ahead = np.arange(1, np.size(values) + 1)
            ax.plot(ahead, values, color=colour, linestyle=style, linewidth=1.8, label=name)
            known = ahead[np.isfinite(np.asarray(values, float))]
            ax.set_xlim(0, max(ax.get_xlim()[1] if ax.lines[:-1] else 1, *known, 1))
        ax.set(xlabel="steps ahead", ylabel=measure)
        ax.xaxis.get_major_locator().set_params(integer=True)
    for ax in axes.flat[len(panels_) :]:
        ax.set_visible(False)
    _legend(axes.flat[0])
    return png(figure)


def calibration(quantities: Sequence[tuple[str, str, Mapping[str, Bins]]]) -> PNG:
    """Draw what came over what was predicted; on the diagonal a prediction means what it says.

    Args:
        quantities: for each panel the names of what was predicted and of what came, and the bins by the kind of
            prediction (filtered, open loop): mean prediction, mean truth and sample counts. The area of a dot
            grows with its bin's samples.
    """
    figure, axes = panels(1, len(quantities), (3.6 * len(quantities), 3.3))
    for ax, (predicted_name, true_name, kinds) in zip(axes.flat, quantities, strict=True):
        _diagonal(ax, *(x for bins in kinds.values() for x in bins[:2]))
        for (kind, (predicted, true, samples)), colour in zip(kinds.items(), (BLUE, ORANGE), strict=False):
            area = 10 + 60 * np.sqrt(np.asarray(samples) / max(1, np.sum(samples)))
            ax.plot(predicted, true, color=colour, linewidth=1.2)
            ax.scatter(predicted, true, s=area, color=colour, label=kind, alpha=0.85, linewidth=0, zorder=3)
        ax.set(xlabel=predicted_name, ylabel=true_name)
    _legend(axes.flat[0])
    return png(figure)


def returns(real: ArrayLike, imagined: ArrayLike, value: ArrayLike, share: ArrayLike) -> PNG:
    """Draw imagined returns and values over real discounted returns; above the diagonal is optimism.

    Args:
        real: what came, one for each step.
        imagined: what was imagined from there.
        value: what the critic said there.
        share: weight of the critic's word in ``real``; the more, the paler the dot.
    """
    real, share = np.asarray(real, float), np.asarray(share, float)
    chosen = np.linspace(0, real.size - 1, min(real.size, _DOTS)).astype(int)
    figure, axes = panels(1, 2, (7.2, 3.5))
    names = ("imagined return", "value by the critic")
    for ax, name, said, colour in zip(axes.flat, names, (imagined, value), (BLUE, ORANGE), strict=True):
        _diagonal(ax, real, said)
        alpha = 0.08 + 0.5 * (1 - share[chosen]) if real.size else None
        ax.scatter(real[chosen], np.asarray(said)[chosen], s=7, color=colour, alpha=alpha, linewidth=0)
        ax.set(xlabel="real discounted return", ylabel=name)
    return png(figure)


def dream_lines(real: ArrayLike, dreamt: ArrayLike, context: int, names: Sequence[str], columns: int = 3) -> PNG:
    """Draw dimensions of an observation over time, real beside dreamt.

    Args:
        real: ``[T, D]``.
        dreamt: ``[T, D]``; the first ``context`` steps were seen.
        context: how many steps the model saw.
        names: of the D dimensions.
        columns: how many panels stand side by side.
    """
    real, dreamt = np.asarray(real, float), np.asarray(dreamt, float)
    columns = 2 if len(names) == 4 else min(columns, len(names))
    rows = -(-len(names) // columns)
    figure, axes = panels(rows, columns, (2.5 * columns + 0.3, 1.65 * rows + 0.5))
    ahead = np.arange(len(real)) - (context - 1)
    for i, name in enumerate(names):
        ax = axes.flat[i]
        ax.axvspan(ahead[0], 0, color=GRID, alpha=0.7, linewidth=0, label="seen by the model")
        ax.plot(ahead, real[:, i], color=INK, linewidth=1.5, label="real")
        ax.plot(ahead[context - 1 :], dreamt[context - 1 :, i], color=ORANGE, linewidth=1.5, label="dreamt")
        titled(ax, name)
        ax.margins(x=0)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("steps ahead")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8.5, labelcolor=SOFT)
    return png(figure)


def _legend(ax: Any) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8.5, labelcolor=SOFT)


def _diagonal(ax: Any, *values: ArrayLike) -> None:
    """Draw the diagonal and show the same range, that of all values, on both axes."""
    together = np.concatenate([np.asarray(x, float) for x in values])
    low, high = (together.min(), together.max()) if together.size else (0.0, 1.0)
    pad = max(0.06 * (high - low), 0.03 * abs(high), 0.02)
    ends = (low - pad, high + pad)
    ax.plot(ends, ends, color=GREY, linewidth=1, linestyle="--")
    ax.set(xlim=ends, ylim=ends)


def _room(ax: Any, values: np.ndarray) -> None:
    """Leave some height around values that are all alike."""
    middle, half = (values.max() + values.min()) / 2, np.ptp(values) / 2
    half = max(half * 1.2, 0.02 * abs(middle), 0.05)
    ax.set_ylim(middle - half, middle + half)


def thousands(ax: Any) -> None:
    """Write env steps as 20k rather than 20000."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_major_locator(MaxNLocator(5))
