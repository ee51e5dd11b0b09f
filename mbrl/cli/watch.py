"""`mbrl watch`: a film of a trained agent and its dream, or of an environment by itself."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mbrl.cli import compilation, parsing
from mbrl.cli import config as reader
from mbrl.core.errors import UserError, nearest

if TYPE_CHECKING:
    from mbrl.runner.reporter import Reporter
    from mbrl.runner.watch import Film, Shot


@dataclasses.dataclass(frozen=True)
class WatchArguments:
    """Film an episode of a run's agent, above what its model makes of it, or one of an environment by itself.

    A run: what was observed, what the model reconstructs, and what it imagines after the context from the actions
    alone, with the error under each picture. An environment (`brax/ant`): actions without a mind.
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR|ENV")]
    """A run's folder, or an environment's name."""
    out: str | None = None
    """The film, `.mp4` or `.gif`. By default RUN_DIR/videos/watch.mp4, or ENV.mp4 here; a GIF where there is no ffmpeg.
    """
    steps: int = 200
    """Steps of the agent, at most; the film ends with the episode."""
    seed: int = 0
    """Of the first state, and of random actions."""
    size: int = 256
    """Height of a picture in pixels."""
    camera: str | None = None
    """Which camera of the environment; of a run, it adds a row on top."""
    context: int = 5
    """Of a run: steps its model sees before it imagines the rest."""
    best: bool = False
    """Of a run: take the checkpoint with the best evaluation instead of the newest."""
    policy: Literal["random", "zero"] | None = None
    """Of an environment: which actions; random by default."""


def run(argv: Sequence[str]) -> int:
    """Make the film and say where it is.

    Raises:
        UserError: something in the words, the run's folder or the environment is not right.
    """
    arguments = parsing.command(WatchArguments, argv, "mbrl watch")
    if arguments is None:
        return 0
    from mbrl.runner import watch  # brings jax and physics with it, which --help does without
    from mbrl.runner.live import make_reporter

    asked = None if arguments.out is None else Path(arguments.out)
    shot = watch.Shot(arguments.steps, arguments.seed, arguments.size, arguments.camera, arguments.context)
    watch.check(shot, asked)
    of_run = _is_run(arguments)
    here = Path(arguments.target) / "videos" / "watch" if of_run else Path(re.sub(r"\W+", "-", arguments.target))
    path, excuse = watch.choose(asked, here)
    if asked is not None:
        watch.check(shot, path)
    compilation.use_cache()
    with make_reporter() as told:
        film = (_film_run if of_run else _film_env)(arguments, shot, told)
        told.phase("writing")
        watch.save(film, path)
    print(f"{film.note}{f'; {excuse}' if excuse else ''}")
    print(f"film: {path}")
    return 0


def _is_run(arguments: WatchArguments) -> bool:
    """Return whether a run is to be filmed rather than an environment.

    Raises:
        UserError: there is neither, or an option is not for what there is.
    """
    from mbrl.envs import names

    base = arguments.target.partition("@")[0]
    is_run = Path(arguments.target).is_dir()
    if not is_run and base not in names() and not base.startswith(("brax/", "dmc/")):
        hint = nearest(arguments.target, names()) or "; `mbrl list envs` shows the environments"
        raise UserError(f"{arguments.target!r} is neither the folder of a run nor an environment{hint}")
    if is_run and arguments.policy is not None:
        raise UserError("--policy is for an environment by itself; a run has its own policy")
    if not is_run and arguments.best:
        raise UserError("--best is for a run; an environment by itself has no checkpoints")
    return is_run


def _film_run(arguments: WatchArguments, shot: Shot, told: Reporter) -> Film:
    from mbrl.runner.restore import load
    from mbrl.runner.watch import shoot_run

    return shoot_run(load(arguments.target, reader.load_run(arguments.target), best=arguments.best), shot, told)


def _film_env(arguments: WatchArguments, shot: Shot, told: Reporter) -> Film:
    from mbrl.envs import EnvConfig
    from mbrl.runner.watch import shoot_env

    return shoot_env(EnvConfig(name=arguments.target), arguments.policy or "random", shot, told)
