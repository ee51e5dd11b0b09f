"""Times pieces, in turn with the plain reference where there is one, and lays the figures out."""

from __future__ import annotations

import dataclasses
import platform
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from mbrl.bench import products, profile, start, timing
from mbrl.bench.pieces import BESIDE, PIECES, SEED_COUNT, Piece, Setting
from mbrl.core import heap
from mbrl.envs import make_vector
from mbrl.runner.checks import check
from mbrl.runner.devices import split_cpu
from mbrl.version import __version__

__all__ = ["GROUPS", "NAMES", "measure", "table"]

# What can be asked for; the start of a run is a process of its own.
NAMES = (*PIECES, "start")
# Several pieces under one name, and what their steps a second are called beside the rows.
GROUPS = {"pixels": {"render": "render_fps", "boxes": "boxes_sps", "boxes_urchin": "boxes_urchin_sps"}}


class _Timed(NamedTuple):
    """A piece, compiled, and the arguments of its next call."""

    piece: Piece
    compiled: timing.Compiled
    args: list[tuple[Any, ...]]  # one entry, replaced by every call

    def __call__(self) -> Any:
        out = self.compiled.call(*self.args[0])
        if self.piece.advance is not None:
            self.args[0] = self.piece.advance(self.args[0], out)
        return out


def measure(
    names: Sequence[str], setting: Setting, repeats: int, seconds: float, folder: str = "", alone: bool = False
) -> dict:
    """Time pieces and return what was found, ready for JSON.

    Args:
        names: of ``NAMES``.
        setting: the experiment whose shapes are taken.
        repeats: calls of each, at most.
        seconds: after which a piece is called no more.
        folder: where a trace of the pieces is left; empty for none.
        alone: whether the matrix products of a piece are timed by themselves too, as ``products_ms``.

    Returns:
        the machine's figures and ``rows``, one a piece: ``ms`` is the median, ``share_of_peak`` the matrix products'
        operations a second as a share of what one large product reaches here. What a piece is timed beside, in turn,
        has its name in ``beside``, its milliseconds, and the ``ratio`` of its time to the piece's.
    """
    config = setting.config
    if "epoch_seeds" in names:  # before JAX looks for its devices, as a run of seeds does
        split_cpu(dataclasses.replace(config, seeds=SEED_COUNT))
    check(config)
    make_vector(config.env, 1)  # an environment that is not there is told before anything is timed
    heap.keep_freed()
    peak = timing.matrix_peak()
    rows = [
        start.measure(config) if name == "start" else _row(name, setting, peak, repeats, seconds, folder, alone)
        for name in names
    ]
    return _machine(peak) | {"rows": rows}


def _row(
    name: str, setting: Setting, peak: float, repeats: int, seconds: float, folder: str, alone: bool
) -> dict[str, Any]:
    piece = PIECES[name](setting)
    operations = piece.operations()  # before a call takes the arguments away
    by_themselves = products.alone(piece.method, *piece.args) if alone and piece.method else None
    timed = _compile(piece)
    measured = timing.peak_bytes(timed, timed.compiled.footprint.held)
    label, other = BESIDE.get(name, ("", None))
    rivals = [] if other is None else [_compile(other(setting))]
    times = timing.in_turn([timed, *rivals], repeats, seconds)
    median = float(np.median(times[0]))
    row: dict[str, Any] = {
        "piece": name,
        "ms": _ms(median),
        "ms_min": _ms(times[0].min()),
        "calls": len(times[0]),
        "steps_per_s": None if piece.steps is None else round(piece.steps / median, 1),
        "gflop": None if operations is None else round(operations / 1e9, 4),
        "share_of_peak": None if operations is None else round(operations / median / peak, 4),
        "mib": round(timed.compiled.footprint.peak / 2**20, 2),
        "mib_measured": None if measured is None else round(measured / 2**20, 2),
        "compile_s": round(timed.compiled.seconds, 2),
    }
    if alone:
        row["products_ms"] = None if by_themselves is None else _ms(by_themselves)
    if rivals:
        ratios = times[1] / times[0]
        row |= {
            "beside": label,
            f"{label}_ms": _ms(np.median(times[1])),
            f"{label}_mib": round(rivals[0].compiled.footprint.peak / 2**20, 2),
            "ratio": round(float(np.median(ratios)), 3),
            "ratio_low": round(float(np.percentile(ratios, 10)), 3),
            "ratio_high": round(float(np.percentile(ratios, 90)), 3),
        }
    if folder:
        row["profile"] = profile.trace(timed, Path(folder) / name)
    return row


def _compile(piece: Piece) -> _Timed:
    compiled = timing.compile_once(piece.function, *piece.args, donate=piece.donate)
    return _Timed(piece, compiled, [piece.args])


def _ms(seconds: Any) -> float:
    return round(float(seconds) * 1e3, 3)


def _machine(peak: float) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "peak_gflop_per_s": round(peak / 1e9, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "versions": f"mbrl {__version__}, jax {jax.__version__}, Python {platform.python_version()}",
    }


def table(report: dict[str, Any]) -> str:
    """Return the report as a table to read."""
    columns = ["ms", "min", "steps/s", "GFLOP", "of peak", "MiB", "measured", "compile s", "beside", "ms", "ratio"]
    alone = any("products_ms" in row for row in report["rows"])
    grid = Table("piece", *(f"[right]{name}[/]" for name in [*columns, *["products ms"] * alone]))
    for row in report["rows"]:
        share, beside = row.get("share_of_peak"), row.get("beside", "")
        told = [row.get(key) for key in ("ms", "ms_min", "steps_per_s", "gflop")]
        told += [None if share is None else f"{share:.1%}", row.get("mib"), row.get("mib_measured")]
        told += [row.get("compile_s"), beside or None, row.get(f"{beside}_ms"), row.get("ratio")]
        told += [row.get("products_ms")] * alone
        grid.add_row(row["piece"], *("-" if cell is None else f"{cell}" for cell in told))
    console = Console(width=150)
    with console.capture() as captured:
        console.print(grid)
    head = f"{report['device']}, matrix products at {report['peak_gflop_per_s']} GFLOP/s; {report['versions']}"
    return f"{captured.get()}{head}"
