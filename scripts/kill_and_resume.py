"""Kills a run at random moments, lets it go on each time, and compares it with a run that was never killed.

SIGKILL leaves a process no moment to tidy up. After each kill the newest whole save may be at most one save's interval
behind what was logged, the next start must go on from it, and in the end metrics and parameters must be those of the
undisturbed run, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from mbrl.runner.checkpoint import Checkpoints, Saved
from mbrl.runner.loggers import read_metrics
from mbrl.runner.rundir import RunDir

# Small networks on a small task, saved after every epoch: much of the time goes into saves.
_EXPERIMENT = {
    "env": "probe/reward", "agent": {"name": "dreamer", "size": "nano"}, "num_envs": 4, "prefill": 256, "epoch": 128,
    "train_ratio": 32, "replay": {"capacity": 4096, "batch_size": 4, "batch_length": 8},
    "evaluation": {"every": 512, "episodes": 4},
}


class Killed(NamedTuple):
    """What a kill left behind."""

    after: float  # seconds from the process's start
    logged: int  # env steps in the metrics
    before: int  # env steps of the newest whole save when this process was started; 0 where there was none
    saved: int  # env steps of the newest whole save; 0 where there is none yet
    during_save: bool  # a half-written save lay there


def main(argv: list[str]) -> int:
    """Run the trial; return 0 when every promise held."""
    parser = argparse.ArgumentParser(prog="kill_and_resume.sh", description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--epochs", type=int, default=60, help="that the run is long, when undisturbed")
    options = parser.parse_args(argv)
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="mbrl-kill-") as folder:
        experiment = Path(folder) / "experiment.yaml"
        steps = options.epochs * _EXPERIMENT["epoch"]
        checkpoint = {"every": _EXPERIMENT["epoch"], "keep": 2}
        experiment.write_text(json.dumps(_EXPERIMENT | {"steps": steps, "checkpoint": checkpoint}))
        whole, killed = RunDir(Path(folder) / "whole"), RunDir(Path(folder) / "killed")
        # The second start of a program compiles nothing, as those to come: it says how long a run takes.
        for run in (killed, whole):
            shutil.rmtree(killed.path, ignore_errors=True)
            begun = time.monotonic()
            _finish(_train(experiment, run))
            seconds = time.monotonic() - begun
        kills, equal = [], []
        while len(kills) < options.kills:
            kill = _kill(experiment, killed, moments.uniform(0, seconds))
            if kill is not None:
                kills.append(kill)
                sys.stdout.write(f"{len(kills):4d} after {kill.after:5.1f} s: {kill.logged:,} env steps logged, "
                                 f"{kill.saved:,} saved{', one half-written' if kill.during_save else ''}\n")
                sys.stdout.flush()
                continue
            equal.append((_metrics(whole) == _metrics(killed), _arrays(whole) == _arrays(killed)))
            shutil.rmtree(killed.path)
        if killed.config.is_file() and _newest(killed) < steps:
            _finish(_train(experiment, killed))
            equal.append((_metrics(whole) == _metrics(killed), _arrays(whole) == _arrays(killed)))
    return _judge(kills, equal)


def _train(experiment: Path, run: RunDir) -> subprocess.Popen[bytes]:
    """Start the run, or let it go on."""
    words = [str(run.path)] if run.config.is_file() else [str(experiment), "--run_dir", str(run.path)]
    command = [sys.executable, "-m", "mbrl", "train", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run's end; raises RuntimeError where it failed."""
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}: {said.decode()[-2000:]}")


def _kill(experiment: Path, run: RunDir, after: float) -> Killed | None:
    """Let the run go on for some seconds and kill it; None where it was quicker and is finished.

    Raises:
        RuntimeError: it ended by itself in another way.
    """
    before = _newest(run)
    process = _train(experiment, run)
    try:
        _, said = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
    if process.returncode == 0 or b"is finished" in said:
        return None
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"after {after:.1f} s the run ended with {process.returncode}: {said.decode()[-2000:]}")
    logged = [line["step"] for line in read_metrics(run)]
    parts = list(run.checkpoints.glob(".part-*")) if run.checkpoints.is_dir() else []
    return Killed(after, max(logged, default=0), before, _newest(run), bool(parts))


def _newest(run: RunDir) -> int:
    """Return the step of the newest whole save, 0 where there is none."""
    if not run.checkpoints.is_dir() or not any(path.name.isdigit() for path in run.checkpoints.iterdir()):
        return 0
    return Checkpoints(run.checkpoints).find().step


def _judge(kills: list[Killed], equal: list[tuple[bool, bool]]) -> int:
    """Print what came of it and return the exit code."""
    lost = max(kill.logged - kill.saved for kill in kills)
    back = sum(kill.saved < kill.before for kill in kills)
    metrics, arrays = (sum(one[part] for one in equal) for part in (0, 1))
    found = {
        "kills": len(kills),
        "of them while a save was written": sum(kill.during_save for kill in kills),
        "of them before the first save": sum(kill.saved == 0 for kill in kills),
        "env steps between two saves": _EXPERIMENT["epoch"],
        "most env steps logged and not saved": lost,
        "times a save was lost": back,
        "runs that came to their end": len(equal),
        "of them with the metrics of a run never killed": metrics,
        "of them with its last save, bit for bit": arrays,
    }
    for name, value in found.items():
        sys.stdout.write(f"{name:<50} {value}\n")
    return 0 if lost <= _EXPERIMENT["epoch"] and not back and metrics == arrays == len(equal) > 0 else 1


def _metrics(run: RunDir) -> list[dict]:
    """Return the metrics without the wall clock's."""
    return [{name: x for name, x in line.items() if not name.startswith("time/")} for line in read_metrics(run)]


def _arrays(run: RunDir) -> dict[str, bytes]:
    """Return every array of the last save as bytes."""
    saves = Checkpoints(run.checkpoints)
    saved: Saved = saves.find()
    return {name: array.tobytes() for name, array in saves.arrays(saved).items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
