"""Times pieces, in turn with the plain reference where there is one, and lays the figures out."""

from __future__ import annotations

import platform
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from mbrl.bench import profile, timing
from mbrl.bench.pieces import PIECES, Piece, Setting, naive_step
from mbrl.envs import make_vector
from mbrl.runner.checks import check
from mbrl.runner.config import Config
from mbrl.version import __version__

__all__ = ["PIECES", "measure", "table"]

# Pieces that the plain reference is timed against.
NAIVE = {"train_step": naive_step}


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


def measure(names: Sequence[str], config: Config[Any], repeats: int, seconds: float, folder: str = "") -> dict:
    """Time pieces and return what was found, ready for JSON.

    Args:
        names: of ``PIECES``.
        config: the experiment whose shapes are taken.
        repeats: calls of each, at most.
        seconds: after which a piece is called no more.
        folder: where a trace of the pieces is left; empty for none.

    Returns:
        the machine's figures and ``rows``, one a piece: ``ms`` is the median, ``share_of_peak`` the matrix products'
        operations a second as a share of what one large product reaches here.
    """
    check(config)
    make_vector(config.env, 1)  # an environment that is not there is told before anything is timed
    timing.keep_freed_memory()
    setting = Setting(config)
    peak = timing.matrix_peak()
    rows = [_row(name, setting, peak, repeats, seconds, folder) for name in names]
    return _machine(peak) | {"rows": rows}


def _row(name: str, setting: Setting, peak: float, repeats: int, seconds: float, folder: str) -> dict[str, Any]:
    timed = _compile(PIECES[name](setting))
    rivals = [_compile(NAIVE[name](setting))] if name in NAIVE else []
    times = timing.in_turn([timed, *rivals], repeats, seconds)
    median = float(np.median(times[0]))
    piece = timed.piece
    row: dict[str, Any] = {
        "piece": name,
        "ms": _ms(median),
        "ms_min": _ms(times[0].min()),
        "calls": len(times[0]),
        "steps_per_s": None if piece.steps is None else round(piece.steps / median, 1),
        "gflop": None if piece.flops is None else round(piece.flops / 1e9, 4),
        "share_of_peak": None if piece.flops is None else round(piece.flops / median / peak, 4),
        "mib": round(timed.compiled.bytes / 2**20, 2),
        "compile_s": round(timed.compiled.seconds, 2),
    }
    if rivals:
        ratios = times[1] / times[0]
        row |= {
            "naive_ms": _ms(np.median(times[1])),
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
    grid = Table("piece", *(f"[right]{name}[/]" for name in ("ms", "min", "steps/s", "GFLOP", "of peak", "MiB",
                                                               "compile s", "naive ms", "faster")))
    for row in report["rows"]:
        share = row["share_of_peak"]
        cells = (
            row["ms"], row["ms_min"], row["steps_per_s"], row["gflop"], None if share is None else f"{share:.1%}",
            row["mib"], row["compile_s"], row.get("naive_ms"), row.get("ratio"),
        )
        grid.add_row(row["piece"], *("-" if cell is None else f"{cell}" for cell in cells))
    console = Console(width=130)
    with console.capture() as captured:
        console.print(grid)
    head = f"{report['device']}, matrix products at {report['peak_gflop_per_s']} GFLOP/s; {report['versions']}"
    return f"{captured.get()}{head}"
