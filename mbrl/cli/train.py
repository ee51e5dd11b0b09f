"""`mbrl train`: an experiment from its first step, or a stopped run from where it stands; on one host or on several."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mbrl.cli import config as reader
from mbrl.cli import parsing
from mbrl.core import heap
from mbrl.core.errors import UserError
from mbrl.runner.launch import Launch, check

PROG = "mbrl train [EXPERIMENT | RUN_DIR]"


@heap.cycles_kept()  # until the run has compiled
def run(argv: Sequence[str]) -> int:
    """Train and return the exit code.

    Raises:
        UserError: something in the words, the file or the run's folder is not right.
    """
    launch, rest = split_launch(argv)
    if launch.distributed and not parsing.HELP & set(rest):
        return _train_together(launch, rest)
    words = [word for word in rest if word not in parsing.HELP]
    config, resume = _experiment(words)
    if len(words) < len(rest):
        print(parsing.help_text(reader.type_of(config), PROG, config))
        print(parsing.help_text(Launch, PROG))
        return 0
    return _train(config, resume)


def split_launch(argv: Sequence[str]) -> tuple[Launch, list[str]]:
    """Take from the words those that say how the run is spread over hosts; return also the others.

    Raises:
        UserError: a value that is missing or of the wrong type, or some that do not go together.
    """
    known = parsing.leaves(Launch)
    mine, rest, queue = [], [], list(argv)
    while queue:
        token = queue.pop(0)
        name, equals, _ = token.removeprefix("--").partition("=")
        if token.startswith("--") and name.replace("-", "_") in known:
            mine += [token, *([] if equals else queue[:1])]
            queue = queue if equals else queue[1:]
        else:
            rest.append(token)
    launch = parsing.parse(Launch, parsing.split(mine, known)[1])
    check(launch)
    return launch, rest


def _experiment(words: Sequence[str]) -> tuple[reader.Config[Any], str | None]:
    """Return the config that the words ask for, and the folder of the run that is to go on with it, if one is."""
    rest = list(words)
    target = rest.pop(0) if rest and not rest[0].startswith("-") else None
    config = reader.load(target, rest)
    resume = target if target is not None and os.path.isdir(target) else None
    if resume and config.run_dir:
        raise UserError(f"a run goes on in its own folder, which is {resume}; leave out --run_dir")
    return config, resume


def _train(config: reader.Config[Any], resume: str | None) -> int:
    from mbrl.cli import compilation  # these bring jax and physics with them, which --help does without
    from mbrl.runner.live import make_reporter
    from mbrl.runner.stop import Interrupted, RunFailedError
    from mbrl.runner.train import train

    cache = compilation.use_cache()
    try:
        result = train(config, resume=resume, reporter=make_reporter())
    except (Interrupted, RunFailedError) as ended:
        return _ended(ended)
    print(cache)
    _conclude(config, result.run_dir, lambda: result)
    return 0


def _conclude(config: reader.Config[Any], run_dir: str | Path, run: Callable[[], Any]) -> None:
    """Say where the run is, and write its report if one is wanted."""
    from mbrl.cli import report

    print(f"run: {run_dir}")
    if config.report:
        report.write(run(), run_dir)


def _train_together(launch: Launch, words: Sequence[str]) -> int:
    """Train as one of several processes: process 0 reads the words and says to the others what is trained."""
    from mbrl.cli import compilation
    from mbrl.runner import hosts
    from mbrl.runner.live import make_reporter
    from mbrl.runner.restore import load
    from mbrl.runner.stop import Interrupted, RunFailedError
    from mbrl.runner.train import train

    compilation.use_cache()
    try:
        with hosts.join(launch, lambda: _told(words)) as together:
            config, resume = reader.load(None, together.told["config"]), together.told["resume"]
            result = train(config, resume=resume, reporter=together.reporter(make_reporter()))
            if hosts.first():
                run_dir = result.run_dir
                del result  # a report looks at the whole replay, as the last save has it: one is enough in memory
                _conclude(config, run_dir, lambda: load(run_dir, config))
    except (Interrupted, RunFailedError) as ended:
        return _ended(ended)
    return 0


def _told(words: Sequence[str]) -> dict[str, Any]:
    """Return what process 0 says of the run to all; by default it uses every device they have."""
    from mbrl.runner.config import to_dict
    from mbrl.runner.rundir import default_path

    config, resume = _experiment(words)
    if config.devices in {1, "auto"}:
        config = dataclasses.replace(config, devices="all")
    if resume is None and not config.run_dir:
        config = dataclasses.replace(config, run_dir=str(default_path(config, datetime.now())))
    return {"config": to_dict(config), "resume": resume}


def _ended(ended: Exception) -> int:
    """Say why a run ended early, and return the exit code."""
    print(f"mbrl: {ended}", file=sys.stderr)
    return getattr(ended, "exit_code", 1)
