"""`mbrl bench`: how fast each piece is on this machine."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from mbrl.cli import config as reader
from mbrl.cli import parsing
from mbrl.core.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class BenchArguments:
    """Time the pieces of a training run, each beside what it could be at best."""

    piece: Annotated[str, tyro.conf.arg(metavar="PIECE")] = "all"
    """Which: `train_step` (REINFORCE), `train_step_dynamics`, `model_step`, `imagination`, `policy_step`,
    `policy_step_16`, `collection`, `epoch`, `epoch_seeds` (eight), `evaluation`, `render`, `boxes`, `boxes_urchin`,
    `start` (of a run, to its first update), or all. `pixels` is what draws, alone. `planners` is apart: every planner
    on one model, and its regret where the optimum is known, or with `--when` what each brings beside the policy; so is
    `serve`, acting over HTTP."""
    size: str = "1m"
    """The agent's size."""
    precision: str = "f32"
    """Numbers the networks compute in, f32 or bf16."""
    obs: Literal["vector", "image"] = "vector"
    """What is observed, with 6 actions, by the pieces that need no environment: 24 numbers, or 64 x 64 pixels."""
    env: str = "brax/inverted_pendulum"
    """The environment of `collection`, `epoch` and `evaluation`."""
    batch_size: int = 16
    """Sequences of a batch."""
    batch_length: int = 64
    """Steps of a sequence."""
    horizon: int = 15
    """Imagined steps."""
    train_ratio: float = 512.0
    """Replayed steps per agent step, in `epoch`."""
    epoch: int = 128
    """Agent steps of an epoch."""
    searches: int = 64
    """Environments that a search of `planners` is for at once."""
    sessions: int = 64
    """Sessions that act at the server of `serve` at once."""
    when: bool = False
    """With `planners`: train a small Dreamer on three tasks instead, and act by the policy and by planners."""
    steps: int = 0
    """Env steps of each task with `--when`; 0 for each one's own."""
    seeds: int = 4
    """Seeds with `--when`, side by side."""
    episodes: int = 16
    """Episodes of each seed with `--when`."""
    minutes: float = 15.0
    """After which nothing more is begun with `--when`."""
    task: str = "all"
    """One task alone with `--when`, by the name that the table has."""
    repeats: int = 30
    """Calls of each, at most; the median counts."""
    seconds: float = 20.0
    """Stop calling a piece after this long, but not before three calls."""
    profile: str = ""
    """Folder for a trace of the pieces (Perfetto opens it) and a table of what takes longest; empty for none."""
    products: bool = False
    """Time matrix products too, each by itself: of the train and model steps, imagination, acting and collection."""
    json: bool = False
    """Print the last line as JSON."""


def run(argv: Sequence[str]) -> int:
    """Time the pieces and print a table, or JSON.

    Raises:
        UserError: something in the words is not right.
    """
    words = list(argv)
    if words and not words[0].startswith("-"):
        words[0] = f"--piece={words[0]}"
    arguments = parsing.command(BenchArguments, words, "mbrl bench [PIECE]")
    if arguments is None:
        return 0
    from mbrl.bench import run as bench  # brings jax with it, which --help does without
    from mbrl.bench.pieces import Setting

    _check(arguments, ["all", *_APART, *bench.GROUPS, *bench.NAMES])
    if arguments.piece in _APART:
        return _APART[arguments.piece](arguments)
    rates = bench.GROUPS.get(arguments.piece, {})
    names = list(bench.NAMES) if arguments.piece == "all" else list(rates) or [arguments.piece]
    made = Setting(setting(arguments), arguments.obs)
    report = bench.measure(names, made, arguments.repeats, arguments.seconds, arguments.profile,
                           arguments.products)
    if not arguments.json:
        print(bench.table(report))
    elif arguments.piece == "all" or rates:
        told = {rates[row["piece"]]: row["steps_per_s"] for row in report["rows"] if rates}
        print(json.dumps(report | told))
    else:
        print(json.dumps({name: value for name, value in report.items() if name != "rows"} | report["rows"][0]))
    return 0


def _check(arguments: BenchArguments, known: list[str]) -> None:
    if arguments.piece not in known:
        raise unknown("piece", arguments.piece, known)
    if arguments.repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {arguments.repeats}")
    if arguments.when and arguments.piece != "planners":
        raise UserError(f"--when is a question about planners, not about {arguments.piece}: mbrl bench planners --when")
    if arguments.products and arguments.piece in _APART:
        raise UserError(f"--products is about pieces of a training run, not about {arguments.piece}: leave it out")


def _planners(arguments: BenchArguments) -> int:
    if arguments.when:
        return _when(arguments)
    from mbrl.bench import planners

    if arguments.searches < 1:
        raise UserError(f"--searches must be at least 1, not {arguments.searches}")
    report = planners.measure(arguments.searches, arguments.repeats, arguments.seconds)
    print(json.dumps(report) if arguments.json else planners.table(report))
    return 0


def _when(arguments: BenchArguments) -> int:
    from mbrl.bench import when

    limits = when.Limits(arguments.steps, arguments.seeds, arguments.episodes, arguments.minutes, arguments.task)
    when.check(limits)
    print(when.plan_of(limits), file=sys.stderr, flush=True)
    report = when.measure(limits)
    print(json.dumps(report) if arguments.json else when.table(report))
    return 0


def _serve(arguments: BenchArguments) -> int:
    from mbrl.bench.pieces import Setting
    from mbrl.deploy import lazy

    lazy.web()
    from mbrl.bench import serving

    if not 1 <= arguments.sessions <= serving.MOST:
        raise UserError(f"--sessions must be from 1 to {serving.MOST}, not {arguments.sessions}")
    report = serving.measure(Setting(setting(arguments), arguments.obs), arguments.sessions, arguments.seconds)
    print(json.dumps(report) if arguments.json else serving.table(report))
    return 0


# What is measured in a way of its own.
_APART = {"planners": _planners, "serve": _serve}


def setting(arguments: BenchArguments) -> reader.Config:
    """Return the experiment that the arguments describe."""
    return reader.load(None, {
        "env": arguments.env,
        "agent": {"size": arguments.size, "precision": arguments.precision, "behaviour.horizon": arguments.horizon},
        "replay": {"batch_size": arguments.batch_size, "batch_length": arguments.batch_length, "capacity": 100_000},
        "train_ratio": arguments.train_ratio,
        "prefill": 8 * max(arguments.batch_length, 128),
        "epoch": arguments.epoch,
        "evaluation.episodes": 8,
    })
