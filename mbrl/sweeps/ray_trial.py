"""A trial as Ray Tune sees it: each step waits for the run's next evaluation. Needs Ray; imported only with it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from ray import tune

from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.files import write_atomic
from mbrl.runner.loggers import MetricsLog
from mbrl.runner.rundir import RunDir
from mbrl.sweeps import trial as trials
from mbrl.sweeps.spec import Sweep, words
from mbrl.sweeps.trial import Job, Processes

SCORE, STEPS = "score", "env_steps"  # the names in what a step returns
_POLL = 0.5  # seconds between two looks at the run
_TRIES = 5  # to copy a save that may be pruned meanwhile


class RayTrial(tune.Trainable):
    """A process of `mbrl train`, watched from a Ray actor."""

    def setup(self, config: dict[str, Any], sweep: Sweep | None = None, folder: str = "") -> None:
        """Start the run, or go on with it where this trial was cut off.

        Args:
            config: what this trial has of its own.
            sweep: the sweep.
            folder: of the sweep; every machine must see it.
        """
        if sweep is None:
            raise TypeError("a trial needs its sweep")
        name = str(self.trial_id)
        self._sweep, self._params = sweep, dict(config)
        self._run, self._log = Path(folder, "trials", name), Path(folder, "logs", f"{name}.log")
        self._run.parent.mkdir(exist_ok=True)
        write_atomic(Path(folder, trials.PARAMS, f"{name}.json"), json.dumps(self._params))
        self._seen = -1
        self._job: Job | None = None

    def step(self) -> dict[str, Any]:
        """Wait for the next evaluation and return it."""
        job = self._job = self._job or self._start()
        while True:
            code = job.poll()
            found = trials.readings(self._run, self._sweep.metric, self._seen)
            ready = [one for one in found if self._may_tell(one.steps, code)]
            if ready:
                self._seen = ready[0].steps
                done = self._seen >= self._sweep.steps
                return {SCORE: ready[0].value, STEPS: self._seen, "done": done}
            if code is not None:
                self._job = None
                raise RuntimeError(f"exit code {code}: {trials.trouble(self._log)}")
            time.sleep(_POLL)

    def save_checkpoint(self, checkpoint_dir: str) -> str:
        """Copy the newest whole save, for another member of the population to take over."""
        for left in reversed(range(_TRIES)):
            save = Checkpoints(self._run / "checkpoints").find()
            try:
                shutil.copytree(save.path, Path(checkpoint_dir, save.path.name))
                break
            except OSError:  # the run, which goes on, has a newer one and no room for this one any more
                shutil.rmtree(Path(checkpoint_dir, save.path.name), ignore_errors=True)
                if not left:
                    raise
        return checkpoint_dir

    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on from another member's save, or from one's own after a restart of the actor."""
        self.cleanup()
        adopted = self._run / trials.ADOPTED
        shutil.rmtree(adopted, ignore_errors=True)
        shutil.copytree(checkpoint, adopted)
        self._seen = max(int(path.name) for path in adopted.glob("[0-9]*"))
        # What the old weights have logged beyond that is no score of the new ones.
        with MetricsLog(RunDir(self._run), self._seen):
            pass

    def cleanup(self) -> None:
        """Stop the run; it saves."""
        if self._job is not None:
            self._job.stop()
            while self._job.poll() is None:
                time.sleep(_POLL)
        self._job = None

    def _start(self) -> Job:
        settings = words(self._sweep, self._params)
        return Processes().launch(trials.command(self._run, self._sweep.experiment, settings), self._log)

    def _may_tell(self, steps: int, code: int | None) -> bool:
        """Whether Ray may hear of an evaluation: at the last it copies a save and stops the process.

        A population may copy a save at any, the one that was judged.
        """
        if steps >= self._sweep.steps and code is None:
            return False  # its last save and its report are yet to come
        if self._sweep.scheduler != "pbt":
            return True
        saves = self._run / "checkpoints"
        return any(path.name.isdigit() and int(path.name) >= steps for path in saves.glob("*"))
