"""`mbrl train`: an experiment from its first step, or a stopped run from where it stands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mbrl.cli import config as reader
from mbrl.cli import parsing
from mbrl.core.errors import UserError

PROG = "mbrl train [EXPERIMENT | RUN_DIR]"


def run(argv: Sequence[str]) -> int:
    """Train and return the exit code.

    Raises:
        UserError: something in the words, the file or the run's folder is not right.
    """
    words = [word for word in argv if word not in parsing.HELP]
    target = words.pop(0) if words and not words[0].startswith("-") else None
    config = reader.load(target, words)
    if len(words) + (target is not None) < len(argv):
        print(parsing.help_text(reader.type_of(config), PROG, config))
        return 0
    resume = target if target is not None and os.path.isdir(target) else None
    if resume and config.run_dir:
        raise UserError(f"a run goes on in its own folder, which is {resume}; leave out --run_dir")
    return _train(config, resume)


def _train(config: reader.Config, resume: str | None) -> int:
    from mbrl.cli import compilation, report  # these bring jax and physics with them, which --help does without
    from mbrl.runner.live import make_reporter
    from mbrl.runner.stop import Interrupted, RunFailed
    from mbrl.runner.train import train

    cache = compilation.use_cache()
    try:
        result = train(config, resume=resume, reporter=make_reporter())
    except Interrupted as stopped:
        print(f"mbrl: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except RunFailed as failed:
        print(f"mbrl: {failed}", file=sys.stderr)
        return 1
    print(cache)
    print(f"run: {result.run_dir}")
    report.write(result, result.run_dir)
    return 0
