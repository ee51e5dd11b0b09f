"""Measures mbrl beside its peers, in turn, round by round, and prints the ratios with their spread.

Prints a table in Markdown and, below it, machine and versions; what goes on meanwhile goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import environments
import measuring
from rows import Evaluation, Learned, Reading, Row, learned, row, table

GOAL, EPISODES = 950.0, 20
LIMIT = 1200  # seconds that one training run may take
PROGRAM = "bench_peers.sh"


class Peer(NamedTuple):
    """One that mbrl is measured beside."""

    kind: str  # of measurement: "step" or "learning"
    environment: environments.Environment
    script: tuple[str, ...]  # beside this file, and its arguments
    budget: int = 0  # env steps of a training run
    variants: tuple[str, ...] = ()  # of a step, as `STEPS` has them
    seconds: float = 900.0  # that its script may take, beside what a training run may
    folder: str = ""  # of its environment, below `.peers`; its name
    asked: bool = False  # measured only when it is named


_SHEEPRL = environments.Environment(("sheeprl==0.8.4",), ("torch==2.13.0",), below=(3, 14))
_BRAX = environments.Environment(("brax", "jax"), pins=True)
PEERS: dict[str, Peer] = {
    "sheeprl": Peer("step", _SHEEPRL, ("sheeprl_step.py",), variants=("dreamer_v3_5", "dreamer_v3")),
    "brax-sac": Peer("learning", _BRAX, ("brax_agent.py", "sac"), 60_000),
    "brax-ppo": Peer("learning", _BRAX, ("brax_agent.py", "ppo"), 4_000_000),
    # Compiling takes many minutes in the first round; later ones find most of it below `.peers/sheeprl`.
    "sheeprl-compiled": Peer("step", _SHEEPRL, ("sheeprl_step.py",), variants=("dreamer_v3_5 compiled",),
                             seconds=3600.0, folder="sheeprl", asked=True),
}
ASKED = ", ".join(name for name, peer in PEERS.items() if peer.asked)
# sheeprl's variants, each with the one of ours that learns its actor by the same gradient.
STEPS = {
    "dreamer_v3_5": ("reinforce", "its `dreamer_v3_5` at size 1M, both with REINFORCE"),
    "dreamer_v3_5 compiled": ("reinforce", "its `dreamer_v3_5` at size 1M with `torch.compile`, both with REINFORCE"),
    "dreamer_v3": ("dynamics", "its `dreamer_v3`, both with the gradient through the dynamics"),
}
OURS = {"step": ("mbrl_step.py",), "learning": ("mbrl_learning.py",)}
OURS_BUDGET = 12_288  # env steps of experiments/quickstart.yaml


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        kind, colon, words = message.partition("unrecognized arguments: ")
        if colon and not kind:
            message = f"unknown option {words.split()[0]!r}; there are --rounds N, --json FILE and --help"
        sys.stderr.write(f"{PROGRAM}: {message}\n")
        sys.exit(2)


def main(argv: list[str]) -> int:
    """Measure, print and return 0 when ours ran in every round."""
    args = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    own, pythons, absent = prepare(args.peers)
    if own is None:
        return 1
    rounds = measure(own, pythons, args)
    rows = [r for name in args.peers for r in rows_of(name, rounds, absent.get(name, ""))]
    report = {
        "command": shlex.join(["bash", "scripts/bench_peers.sh", *argv]), "date": time.strftime("%Y-%m-%d"),
        "machine": machine(), "absent": absent, "rows": [r._asdict() for r in rows], "rounds": rounds,
    }
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join([table(rows), "", f"- machine: {machine()}", *versions(rounds)]) + "\n")
    return int(any("error" in found["ours"] for one in rounds for found in one.values()))


def arguments(argv: list[str]) -> argparse.Namespace:
    """Return what was asked for; leaves with exit code 2 and one sentence where it is wrong."""
    parser = Parser(prog=PROGRAM, description=__doc__, allow_abbrev=False)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; all but {ASKED}")
    parser.add_argument("--rounds", nargs="?", const="", default="3", metavar="N",
                        help="ours, theirs, ours, theirs: how often; 3")
    parser.add_argument("--json", nargs="?", const=Path(), type=Path, metavar="FILE",
                        help="gets all that was measured, with versions")
    args = parser.parse_intermixed_args(argv)
    for name in args.peers:
        if name not in PEERS:
            parser.error(f"unknown peer {name!r}; there are {', '.join(PEERS)}")
    if not (args.rounds.isascii() and args.rounds.isdigit() and int(args.rounds) > 0):
        parser.error(f"--rounds takes a whole number of at least 1, not {args.rounds!r}")
    if args.json is not None and (args.json.is_dir() or not args.json.absolute().parent.is_dir()):
        parser.error(f"--json takes a file in a folder that exists, not {str(args.json)!r}")
    args.rounds, args.peers = int(args.rounds), list(dict.fromkeys(args.peers)) or [
        name for name, peer in PEERS.items() if not peer.asked]
    return args


def prepare(names: list[str]) -> tuple[Path | None, dict[str, Path], dict[str, str]]:
    """Make all environments; return our Python, the peers' and why some have none."""
    say("environments: .venv")
    try:
        own = environments.own()
    except environments.Unavailable as error:
        say(f"mbrl itself is missing: {error}")
        return None, {}, {}
    pythons: dict[str, Path] = {}
    absent: dict[str, str] = {}
    for name in names:
        folder = PEERS[name].folder or name
        say(f"environments: .peers/{folder}")
        try:
            pythons[name] = environments.peer(folder, PEERS[name].environment)
        except environments.Unavailable as error:
            absent[name] = str(error)
            say(f"{name} is left out: {error}")
    return own, pythons, absent


def measure(own: Path, pythons: dict[str, Path], args: argparse.Namespace) -> list[dict[str, dict[str, Any]]]:
    """Return for every round and kind of measurement what ours and each peer's script printed.

    A script that fails leaves ``{"error": reason}``; its peer is not run again.
    """
    rounds: list[dict[str, dict[str, Any]]] = []
    running = dict(pythons)
    for number in range(args.rounds):
        rounds.append({})
        for kind in dict.fromkeys(PEERS[name].kind for name in args.peers):
            turn = {name: python for name, python in running.items() if PEERS[name].kind == kind}
            if number and not turn:  # ours alone says nothing that the first round has not said
                continue
            found = rounds[-1][kind] = {"ours": once("ours", own, OURS[kind], number, args.rounds)}
            for name, python in turn.items():
                found[name] = once(name, python, PEERS[name].script, number, args.rounds)
            running = {name: python for name, python in running.items() if "error" not in found.get(name, {})}
    return rounds


def once(name: str, python: Path, script: tuple[str, ...], number: int, rounds: int) -> dict[str, Any]:
    """Run one measurement and return what it printed, or its error."""
    words = list(script)
    peer = PEERS.get(name)
    seconds = 900.0 if peer is None else peer.seconds
    if "step" not in script[0]:
        words += ["--seed", str(number), "--goal", str(GOAL), "--episodes", str(EPISODES), "--limit", str(LIMIT)]
        seconds += LIMIT
    if peer is not None and peer.budget:
        words += ["--budget", str(peer.budget)]
    if peer is not None and peer.variants:
        words += ["--variants", *peer.variants]
    begin = time.time()
    result = measuring.run(python, words, seconds)
    outcome = f"failed: {result['error']}" if "error" in result else f"done in {time.time() - begin:.0f} s"
    say(f"round {number + 1} of {rounds}, {script[0]}, {name}: {outcome}")
    for variant in STEPS:  # one of several may fail alone
        if "error" in result.get(variant, {}):
            say(f"round {number + 1} of {rounds}, {variant}, {name}: failed: {result[variant]['error']}")
    return result


def rows_of(name: str, rounds: list[dict[str, dict[str, Any]]], absent: str) -> list[Row]:
    """Return the rows of one peer."""
    kind = PEERS[name].kind
    missing = {"error": absent or "its first failure ended it"}
    both = [(one[kind]["ours"], one[kind].get(name, missing)) for one in rounds if kind in one]
    return (step_rows if kind == "step" else learning_rows)(name, both)


def step_rows(name: str, both: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Row]:
    """Return a row for each of sheeprl's variants, beside ours with the same gradient of the actor."""
    rows = []
    for variant in PEERS[name].variants:
        mine, what = STEPS[variant]
        ours = [part(o, mine) for o, _ in both]
        theirs = [part(t, variant) for _, t in both]
        rows.append(row(name, f"ms of a train step: {what}", [reading(o, "ms") for o in ours],
                        [reading(t, "ms") for t in theirs], sizes(ours, theirs)))
    return rows


def part(result: dict[str, Any], variant: str) -> dict[str, Any]:
    """Return what was found of one variant; what failed as a whole failed in every variant."""
    return result if "error" in result else result[variant]


def sizes(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """Return parameters, operations and threads, or nothing where there is no round that both came through."""
    both = [(o, t) for o, t in zip(ours, theirs, strict=True) if "error" not in o and "error" not in t]
    if not both:
        return ""
    (mine, other), threads = both[0], sorted({str(t["threads"]) for _, t in both})
    counted = "" if other["gflop"] is None else (
        f"; matrix products {mine['gflop']:.1f} and {other['gflop']:.1f} GFLOP")
    return (f"parameters {mine['parameters']:,} and {other['parameters']:,}{counted}; "
            f"PyTorch's threads: {' or '.join(threads)}")


def learning_rows(name: str, both: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Row]:
    """Return the rows of seconds and env steps to the goal, and of the pace."""
    ours = [lesson(o, OURS_BUDGET) for o, _ in both]
    theirs = [lesson(t, PEERS[name].budget) for _, t in both]
    quantities = {"seconds": f"seconds to {GOAL:.0f}", "steps": f"env steps to {GOAL:.0f}",
                  "pace": "seconds per 1,000 env steps"}
    return [row(name, what, [getattr(x, field) for x in ours], [getattr(x, field) for x in theirs])
            for field, what in quantities.items()]


def lesson(result: dict[str, Any], budget: int) -> Learned:
    """Return what a training run came to."""
    if "error" in result:
        return Learned(*[reading(result, "")] * 3)
    evaluations = [Evaluation(*found) for found in result["evaluations"]]
    words = f"{budget:,} steps"
    if result["cut_off"]:
        words = f"{evaluations[-1].steps if evaluations else 0:,} steps, cut off after {LIMIT} s"
    return learned(evaluations, GOAL, words)


def reading(result: dict[str, Any], field: str) -> Reading:
    """Return one figure, or why it is missing."""
    return Reading(None, f"failed: {result['error']}") if "error" in result else Reading(float(result[field]))


def versions(rounds: list[dict[str, dict[str, Any]]]) -> list[str]:
    """Return a line of versions for each side."""
    lines: dict[str, dict[str, str]] = {}
    for one in rounds:
        for found in one.values():
            for name, result in found.items():
                lines.setdefault(name, {}).update(result.get("versions", {}))
    return [f"- {name}: {', '.join(f'{k} {v}' for k, v in known.items()) or 'nothing ran'}"
            for name, known in lines.items()]


def machine() -> str:
    """Return the processor, and the cores that this process may use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, {platform.system()}"


def say(words: str) -> None:
    """Tell whoever watches."""
    sys.stderr.write(f"{PROGRAM}: {words}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
