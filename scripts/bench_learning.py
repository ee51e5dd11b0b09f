"""Trains an experiment over several seeds and writes a table of what came of each, the failed ones included."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from mbrl.runner.machine import describe

PACKAGES = ("mbrl", "jax", "jaxlib", "flax", "optax", "brax", "mujoco", "numpy")


class Row(NamedTuple):
    """What came of one seed; None where it never came to that."""

    seed: int
    outcome: str  # "done", or which command failed
    return_mean: float | None  # over the fresh episodes at the end
    return_std: float | None
    steps_to_goal: int | None  # env steps at the first evaluation that reached the goal
    seconds: float  # of `mbrl train`: compilation, evaluations and report included


def main(argv: list[str]) -> int:
    """Run the benchmark and return 0 when every seed reached its end."""
    parser = argparse.ArgumentParser(prog="bench_learning.sh", description=__doc__, allow_abbrev=False,
                                     epilog="All other options go to `mbrl train`.")
    parser.add_argument("experiment", nargs="?", default="quickstart", help="what `mbrl train` takes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--goal", type=float, default=950.0, help="mean return of an evaluation that counts as learned")
    parser.add_argument("--episodes", type=int, default=20, help="fresh episodes at the end")
    parser.add_argument("--out", type=Path, default=None, help="folder of the table; docs/results/<experiment>")
    parser.add_argument("--warm", action="store_true",
                        help="let seeds share what was compiled, so that their seconds are not alike")
    args, rest = parser.parse_known_args(argv)
    if not args.warm:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # each compiles for itself
    out = args.out or Path("docs/results") / Path(args.experiment).stem
    runs = Path("runs") / f"bench-{Path(args.experiment).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for seed in args.seeds:
        rows.append(bench(args.experiment, seed, runs / f"seed-{seed}", args.goal, args.episodes, rest))
        # After every seed, so that what is known survives whatever stops the rest.
        write(out, rows, args.goal, args.episodes, shlex.join(["bash", "scripts/bench_learning.sh", *argv]))
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    return int(any(row.outcome != "done" for row in rows))


def bench(experiment: str, seed: int, run_dir: Path, goal: float, episodes: int, rest: list[str]) -> Row:
    """Train and evaluate one seed."""
    begin = time.perf_counter()
    trained = _mbrl("train", experiment, "--seed", str(seed), "--run_dir", str(run_dir), *rest)
    row = Row(seed, "done", None, None, steps_to_goal(run_dir / "metrics.jsonl", goal), time.perf_counter() - begin)
    if trained.returncode:
        return row._replace(outcome=f"train failed ({trained.returncode})")
    # Seeds of their own: the same first states for every training seed, and none that training saw.
    evaluated = _mbrl("eval", str(run_dir), "--episodes", str(episodes), "--seed", "12345", "--json")
    if evaluated.returncode:
        return row._replace(outcome=f"eval failed ({evaluated.returncode})")
    result = json.loads(evaluated.stdout.splitlines()[-1])
    return row._replace(return_mean=result["return_mean"], return_std=result["return_std"])


def steps_to_goal(metrics: Path, goal: float) -> int | None:
    """Return the env steps at the first evaluation whose mean return reached ``goal``, or None."""
    if not metrics.is_file():
        return None
    for line in metrics.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        reached = values.get("eval/return_mean")
        if reached is not None and reached >= goal:
            return int(values["step"])
    return None


def write(out: Path, rows: list[Row], goal: float, episodes: int, command: str) -> None:
    """Write `table.csv`, and `table.md` with the machine, the versions and the command beside it."""
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    reached = sum(row.steps_to_goal is not None for row in rows)
    final = sum(row.return_mean is not None and row.return_mean >= goal for row in rows)
    lines = [
        f"| seed | outcome | return over {episodes} fresh episodes | env steps to {goal:.0f} | seconds |",
        "|---|---|---|---|---|",
        *(f"| {r.seed} | {r.outcome} | {_spread(r)} | {_known(r.steps_to_goal)} | {r.seconds:.0f} |" for r in rows),
        "",
        f"{final} of {len(rows)} seeds end at {goal:.0f} or more; {reached} reached it in an evaluation on the way.",
        "",
        f"- command: `{command}`",
        f"- machine: {describe()}",
        f"- versions: Python {platform.python_version()}, {', '.join(_version(name) for name in PACKAGES)}",
    ]
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _mbrl(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of mbrl's; what training says goes by, what evaluation says is kept."""
    kept = subprocess.PIPE if words[0] == "eval" else None
    return subprocess.run([sys.executable, "-m", "mbrl", *words], stdout=kept, text=True, check=False)


def _spread(row: Row) -> str:
    return "-" if row.return_mean is None else f"{row.return_mean:.1f} ± {row.return_std:.1f}"


def _known(value: Any) -> str:
    return "-" if value is None else f"{value:,}"


def _version(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"{name} not installed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
