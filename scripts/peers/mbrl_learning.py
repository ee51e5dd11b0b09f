"""Trains mbrl's quickstart until an evaluation reaches the goal, and stops it there.

Prints one JSON line: ``evaluations`` (``[env steps, mean return, seconds since the process started]`` each) and
``versions``. Runs in mbrl's own environment.
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
        evaluations, code = train(args, Path(folder) / "run")
    if code:
        return code
    names = ("mbrl", "brax", "jax", "jaxlib", "flax", "optax", "mujoco", "numpy")
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
    sys.stdout.write(json.dumps({"evaluations": evaluations, "versions": versions}) + "\n")
    return 0


def train(args: argparse.Namespace, run_dir: Path) -> tuple[list[tuple[int, float, float]], int]:
    """Return the evaluations, and the exit code of a run that failed, else 0."""
    words = [args.experiment, "--seed", str(args.seed), "--run_dir", str(run_dir)]
    words += ["--evaluation.episodes", str(args.episodes)]
    begin = time.time()
    run = subprocess.Popen([sys.executable, "-m", "mbrl", "train", *words], stdout=sys.stderr)
    seen: list[tuple[int, float, float]] = []
    try:
        while (code := run.poll()) is None and time.time() - begin < args.limit:
            for steps, mean in evaluations(run_dir / "metrics.jsonl")[len(seen) :]:
                seen.append((steps, mean, time.time() - begin))
            if seen and seen[-1][1] >= args.goal:
                break
            time.sleep(0.05)
        # The last evaluation of a run that came to its end.
        seen += [(*found, time.time() - begin) for found in evaluations(run_dir / "metrics.jsonl")[len(seen) :]]
        return seen, code or 0
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
