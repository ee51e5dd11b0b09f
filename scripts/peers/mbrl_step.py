"""Times one train step of mbrl's Dreamer at size 1m, with either gradient of the actor.

Prints one JSON line: ``dynamics`` and ``reinforce``, each with ``ms`` (median), ``ms_min``, ``calls``, ``compile_s``,
``gflop`` (of matrix products) and ``parameters``; and ``versions``. Runs in mbrl's own environment.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib import metadata
from typing import Any

import jax
import numpy as np

from mbrl.bench import timing
from mbrl.bench.pieces import PIECES, Piece, Setting
from mbrl.cli.bench import BenchArguments, setting
from mbrl.core import heap

VARIANTS = {"dynamics": "train_step_dynamics", "reinforce": "train_step"}


def main(argv: list[str]) -> int:
    """Time both and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=15, help="at most, of each")
    parser.add_argument("--seconds", type=float, default=30.0, help="call no more after this long")
    args = parser.parse_args(argv)
    heap.keep_freed()
    shapes = Setting(setting(BenchArguments()))
    result: dict[str, Any] = {}
    for name, piece in VARIANTS.items():
        result[name] = timed(PIECES[piece](shapes), args.calls, args.seconds) | {"parameters": parameters(shapes)}
    names = ("mbrl", "jax", "jaxlib", "flax", "optax", "numpy")
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
    sys.stdout.write(json.dumps(result | {"versions": versions}) + "\n")
    return 0


def timed(piece: Piece, calls: int, seconds: float) -> dict[str, Any]:
    """Compile, warm up and call one piece again and again, each time with the state that it returned."""
    operations = piece.operations()
    compiled = timing.compile_once(piece.function, *piece.args, donate=piece.donate)
    args = [piece.args]

    def once() -> Any:
        out = compiled.call(*args[0])
        if piece.advance is not None:
            args[0] = piece.advance(args[0], out)
        return out

    times = 1e3 * timing.in_turn([once], calls, seconds)[0]
    return {
        "ms": float(np.median(times)), "ms_min": float(times.min()), "calls": len(times),
        "compile_s": compiled.seconds, "gflop": None if operations is None else operations / 1e9,
    }


def parameters(shapes: Setting) -> int:
    """Return how many numbers learn: model, actor and critic, without the slow copy."""
    state = jax.eval_shape(shapes.dreamer.init, jax.random.key(0))
    return sum(int(leaf.size) for leaf in jax.tree.leaves(state.params))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
