"""`python -m mbrl.cli.trial RUN_DIR EXPERIMENT WORD...`: begins a sweep's run, or goes on with it where it was begun.

Where the sweep has left another run's save for it, it goes on from that one, with the settings of the words.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mbrl.cli import config as reader
from mbrl.cli.main import main as mbrl
from mbrl.sweeps.trial import ADOPTED

_POLL = 5.0  # seconds between two looks at a folder that is in use


def main(argv: Sequence[str]) -> int:
    """Return the exit code of `mbrl train`."""
    from mbrl.runner.fork import fork
    from mbrl.runner.rundir import RunDir

    run, experiment, *words = argv
    folder = RunDir(Path(run))
    _wait(folder.path)
    if not folder.config.is_file():
        return mbrl(["train", experiment, *words, "--run_dir", run])
    for save in sorted((folder.path / ADOPTED).glob("[0-9]*")):
        fork(save, folder, reader.load(folder.config, words))
        shutil.rmtree(folder.path / ADOPTED)
    return mbrl(["train", run])


def _wait(folder: Path) -> None:
    """Wait until nobody trains in a folder: where a sweep was killed, its trials go on to their ends without it."""
    from mbrl.runner import rundir

    while folder.is_dir():
        try:
            with rundir.hold(folder):
                return
        except rundir.InUseError:
            time.sleep(_POLL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
