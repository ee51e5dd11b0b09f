"""Trains mbrl's quickstart until an evaluation reaches the goal, and stops it there.

Prints one JSON line: ``evaluations`` (``[env steps, mean return, seconds since the process started]`` each),
``cut_off`` (whether the seconds allowed ended it) and ``versions``. Runs in mbrl's own environment.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

_GRACE = 120.0  # seconds to save and leave in


def main(argv: list[str]) -> int:
    """Train and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="experiments/quickstart.yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--goal", type=float, default=950.0)
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds")
    parser.add_argument("--episodes", type=int, default=20, help="of an evaluation")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="mbrl-peers-") as folder:
        result, code = train(args, Path(folder) / "run")
    if code:
        return code
    names = ("mbrl", "brax", "jax", "jaxlib", "flax", "optax", "mujoco", "numpy")
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
    sys.stdout.write(json.dumps(result | {"versions": versions}) + "\n")
    return 0


def train(args: argparse.Namespace, run_dir: Path) -> tuple[dict[str, Any], int]:
    """Return what is printed of the run, and the exit code of one that failed, else 0."""
    words = [args.experiment, "--seed", str(args.seed), "--run_dir", str(run_dir)]
    words += ["--evaluation.episodes", str(args.episodes)]
    begin = time.time()
    run = subprocess.Popen([sys.executable, "-m", "mbrl", "train", *words], stdout=sys.stderr)
    seen: list[tuple[int, float, float]] = []
    cut_off = reached = False
    code = None
    try:
        while not (reached or cut_off) and code is None:
            time.sleep(0.05)
            code = run.poll()  # before the file is read, so that the last line of a run that has ended is seen
            seen += [(*found, time.time() - begin) for found in evaluations(run_dir / "metrics.jsonl")[len(seen) :]]
            reached = any(mean >= args.goal for _, mean, _ in seen)
            cut_off = not reached and time.time() - begin > args.limit
        return {"evaluations": seen, "cut_off": cut_off}, code or 0
    finally:
        stop(run)


def evaluations(metrics: Path) -> list[tuple[int, float]]:
    """Return (env steps, mean return) of every evaluation written so far; a line not yet complete is left."""
    if not metrics.is_file():
        return []
    complete = metrics.read_text(encoding="utf-8").split("\n")[:-1]
    lines = [json.loads(line) for line in complete]
    return [(line["step"], line["eval/return_mean"]) for line in lines if line.get("eval/return_mean") is not None]


def stop(run: subprocess.Popen[bytes]) -> None:
    """Ask the run to end, and end it if it does not."""
    run.terminate()
    try:
        run.wait(_GRACE)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
