"""Writes the tasks of a DM-Control suite, with published scores as their references, from clones of two repositories.

    git clone https://github.com/nicklashansen/tdmpc2 && git clone https://github.com/danijar/dreamerv3
    python scripts/published_scores.py proprio tdmpc2 dreamerv3

The per-seed numbers are averaged here; nothing else is taken from the repositories. What is printed stands in
`experiments/suites/dmc-proprio.yaml` and `dmc-vision.yaml` below their first lines; with `--at 50000 --window 20000`,
which leaves out tasks that nobody has a score for then, in `dmc-50k.yaml`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

BIN = 10_000  # env steps between DreamerV3's scores, which are of training episodes
WINDOW = 50_000  # env steps over which these are averaged
DREAMER_STEPS = {"proprio": (100_000, 250_000, 500_000), "vision": (100_000, 500_000, 1_000_000)}
TDMPC2_STEPS = (100_000, 500_000, 1_000_000, 4_000_000)
TDMPC2_FOLDER = {"proprio": "tdmpc2", "vision": "tdmpc2-pixels"}
# Tasks that the Playground calls otherwise than DM-Control, whose names are domain and task.
DOMAINS = {"BallInCup": "ball_in_cup-catch", "PointMass": "point_mass-easy", "SwimmerSwimmer6": "swimmer-swimmer6"}
SHORT = {"ball_in_cup": "cup"}  # as TD-MPC2 has it


class Found(NamedTuple):
    """A published score."""

    agent: str
    score: float
    at: int
    kind: str
    source: str


def main(argv: list[str]) -> int:
    """Print the tasks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("kind", choices=list(DREAMER_STEPS))
    parser.add_argument("tdmpc2", type=Path, help="clone of nicklashansen/tdmpc2")
    parser.add_argument("dreamerv3", type=Path, help="clone of danijar/dreamerv3")
    parser.add_argument("--at", type=int, default=None, help="env steps of the scores; the suites' if not given")
    parser.add_argument("--window", type=int, default=WINDOW, help="env steps over which DreamerV3's are averaged")
    args = parser.parse_args(argv)
    if args.window < BIN or (args.at is not None and args.at < BIN):
        parser.error(f"--at and --window must be at least {BIN} env steps, which DreamerV3's scores are apart")
    dreamer_steps = (args.at,) if args.at else DREAMER_STEPS[args.kind]
    tdmpc2_steps = (args.at,) if args.at else TDMPC2_STEPS
    from mbrl.envs.playground import NAMES

    episodes = dreamer_episodes(args.dreamerv3, args.kind)
    path = f"danijar/dreamerv3@{commit(args.dreamerv3)}: scores/dmc_{args.kind}-dreamerv3.json.gz"
    for name in NAMES:
        task = DOMAINS.get(name) or "-".join(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_", 1))
        runs = episodes.get(f"dmc_{task.replace('-', '_')}", [])
        found = [*dreamer(path, runs, dreamer_steps, args.window), *tdmpc2(args.tdmpc2, args.kind, task, tdmpc2_steps)]
        if args.at and not found:
            continue
        sys.stdout.write(f"  {name}:\n    env: dmc/{name}\n")
        if found:
            sys.stdout.write("    references:\n")
        sys.stdout.writelines(lines(found))
    return 0


def dreamer_episodes(clone: Path, kind: str) -> dict[str, list[dict[float, float]]]:
    """Return by task each seed's scores by env step."""
    found = defaultdict(list)
    for run in json.loads(gzip.decompress(read(clone, f"scores/dmc_{kind}-dreamerv3.json.gz"))):
        found[run["task"]].append(dict(zip(run["xs"], run["ys"], strict=True)))
    return found


def dreamer(path: str, runs: list[dict[float, float]], steps: Iterable[int], window: int) -> Iterable[Found]:
    """Yield DreamerV3's scores on a task, of which it has these runs in the file ``path``."""
    for at in steps if runs else ():
        means = [statistics.fmean(score for step, score in run.items() if at - window < step <= at) for run in runs]
        how = f"mean of {len(runs)} seeds over the {window // 1000}k env steps before"
        yield Found("DreamerV3", statistics.fmean(means), at, how, path)


def tdmpc2(clone: Path, kind: str, task: str, steps: Iterable[int]) -> Iterable[Found]:
    """Yield TD-MPC2's scores on a task."""
    domain, _, what = task.partition("-")
    path = f"results/{TDMPC2_FOLDER[kind]}/{SHORT.get(domain, domain)}-{what.replace('_', '-')}.csv"
    content = read(clone, path)
    by_step = defaultdict(list)
    for row in csv.DictReader(io.StringIO(content.decode())):
        by_step[int(row["step"])].append(float(row["reward"]))
    for at in steps:
        if scores := by_step.get(at):
            source = f"nicklashansen/tdmpc2@{commit(clone)}: {path}"
            yield Found("TD-MPC2", statistics.fmean(scores), at, f"mean of {len(scores)} seeds", source)


def lines(found: Iterable[Found]) -> Iterable[str]:
    """Yield the references as YAML."""
    for one in found:
        yield (
            f"      - {{agent: {one.agent}, score: {one.score:.1f}, at: {one.at}, kind: {one.kind},\n"
            f'         source: "{one.source}"}}\n'
        )


def read(clone: Path, path: str) -> bytes:
    """Return a file of the clone's newest commit; nothing where there is none."""
    return subprocess.run(["git", "-C", clone, "show", f"HEAD:{path}"], capture_output=True, check=False).stdout


def commit(clone: Path) -> str:
    """Return the clone's newest commit."""
    command = ["git", "-C", clone, "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
