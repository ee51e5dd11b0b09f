"""A plan before it is acted on: the trajectories it imagined, and the tree it grew."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mbrl.viz.figures import BLUE, GREY, INK, ORANGE, PNG, panels, png, titled


def fan(
    states: ArrayLike, weights: ArrayLike, actions: ArrayLike, action: ArrayLike, names: tuple[str, ...] = ()
) -> PNG:
    """Draw what each candidate of one environment would lead through, and how the candidates were weighed.

    Args:
        states: numbers of the imagined states, ``[K, H + 1, D]``; a panel for each of D, at most 6.
        weights: of the candidates, ``[K]``; the darker the line.
        actions: the candidates, ``[K, A]``.
        action: what is done, ``[A]``.
        names: of the numbers, D of them or none.
    """
    states, weights, actions = (np.asarray(x, float) for x in (states, weights, actions))
    shown = min(states.shape[2], 6)
    figure, axes = panels(1, shown + 1, (2.6 * (shown + 1), 2.7))
    share = 0.08 + 0.92 * weights / max(float(weights.max()), 1e-12)
    time = np.arange(states.shape[1])
    for number, ax in enumerate(axes[0, :shown]):
        for line, alpha in zip(states[..., number], share, strict=True):
            ax.plot(time, line, color=BLUE, linewidth=1.2, alpha=float(alpha))
        titled(ax, names[number] if number < len(names) else f"state {number}")
        ax.set_xlabel("imagined steps")
    last = axes[0, shown]
    for number, row in enumerate(np.atleast_2d(actions.T)):
        last.scatter(np.full(row.shape, number), row, s=8 + 60 * weights, color=BLUE, alpha=0.5, linewidths=0)
    last.scatter(np.arange(actions.shape[1]), np.asarray(action, float), marker="_", s=240, color=ORANGE, label="done")
    last.set(xlabel="number of the action", xticks=np.arange(actions.shape[1]))
    last.legend(frameon=False, fontsize=8)
    titled(last, "candidates by weight")
    return png(figure)


def tree(parent: ArrayLike, depth: ArrayLike, reach: ArrayLike, value: ArrayLike, present: ArrayLike) -> PNG:
    """Draw a tree of N imagined states of one environment: by depth, each as large as its share of the search.

    Args:
        parent: of each node, ``[N]``, -1 for the root; a parent stands before its children.
        depth: ``[N]``.
        reach: the product of the soft weights on the way to each node, ``[N]``.
        value: of each node, ``[N]``; its colour.
        present: whether there is such a node, ``[N]``.
    """
    parent, depth, reach = np.asarray(parent, int), np.asarray(depth, int), np.asarray(reach, float)
    there = np.flatnonzero(np.asarray(present, bool))
    place = _places(parent, there)
    figure, ((ax,),) = panels(1, 1, (7.2, 3.2))
    for node in there:
        if parent[node] >= 0:
            ends = [place[int(parent[node])], place[int(node)]], [-depth[parent[node]], -depth[node]]
            ax.plot(*ends, color=GREY, linewidth=0.4 + 3 * reach[node], zorder=1)
    shown: Any = ax.scatter(
        [place[int(node)] for node in there], -depth[there], c=np.asarray(value, float)[there],
        s=15 + 120 * reach[there], cmap="viridis", edgecolors=INK, linewidths=0.4, zorder=2,
    )
    figure.colorbar(shown, ax=ax, label="value")
    ax.set(xticks=[], yticks=-np.arange(depth[there].max() + 1), ylabel="depth")
    ax.set_yticklabels([str(level) for level in range(depth[there].max() + 1)])
    return png(figure)


def _places(parent: np.ndarray, there: np.ndarray) -> dict[int, float]:
    """Return where to draw each node: leaves side by side, a parent amid its children."""
    children: dict[int, list[int]] = {int(node): [] for node in there}
    for node in there:
        if parent[node] >= 0:
            children[int(parent[node])].append(int(node))
    order, stack = [], [int(there[0])]
    while stack:  # each node before those below it, siblings from left to right
        order.append(stack.pop())
        stack += reversed(children[order[-1]])
    leaves = [node for node in order if not children[node]]
    place = {node: float(number) for number, node in enumerate(leaves)}
    for node in reversed(order):
        if children[node]:
            place[node] = float(np.mean([place[child] for child in children[node]]))
    return place
