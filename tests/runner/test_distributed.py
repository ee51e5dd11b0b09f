"""Two processes on one machine are one run: the same numbers, the same saves, and they end together."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from toy_learner import CONFIG

from mbrl.core.errors import UserError
from mbrl.runner import devices, hosts
from mbrl.runner.bond import LOST
from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.launch import Launch
from mbrl.runner.muster import free_port
from mbrl.runner.train import train

SCRIPT = Path(__file__).with_name("one_of_several.py")
# What the first pair compiles the others find, however quickly it was compiled.
ENVIRONMENT = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
FOREVER = 10**8
PATIENCE = 300  # seconds; a busy machine is slow


def rows(folder):
    """The metrics without the wall clock's figures, as far as they are written."""
    path = folder / "metrics.jsonl"
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in whole]


def assert_same(found, expected):
    assert len(found) == len(expected) > 2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(
                np.float64(ours[name]), np.float64(value), rtol=1e-5, atol=1e-5, err_msg=f"{name} at {theirs['step']}"
            )


def alone(folder, steps, *, resume=False):
    config = dataclasses.replace(CONFIG, run_dir=str(folder), steps=steps)
    return train(config, resume=folder if resume else None)


class Pair:
    """Two processes of one run."""

    def __init__(self, folder, steps, *, resume=False):
        address = f"127.0.0.1:{free_port('127.0.0.1')}"
        told = {"changes": {"run_dir": str(folder), "steps": steps}, "resume": str(folder) if resume else None}
        self.folder = folder
        # Process 1 is told nothing: what is trained it hears from process 0.
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), address, str(number), json.dumps(told) if number == 0 else "{}"],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
            )
            for number in (0, 1)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stderr.close()

    def wait_for_step(self, step):
        end = time.monotonic() + PATIENCE
        while not any(row["step"] >= step for row in rows(self.folder)):
            assert self.processes[0].poll() is None, self.processes[0].stderr.read()[-3000:]
            assert time.monotonic() < end
            time.sleep(0.1)

    def ended(self):
        """Exit codes and what was said."""
        said = [process.communicate(timeout=PATIENCE)[1] for process in self.processes]
        return [process.returncode for process in self.processes], said


@pytest.fixture(scope="module")
def begun_alone(tmp_path_factory):
    """A run on one host."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return folder, alone(folder, 64)


def test_two_compute_what_one_does_and_stop_together(tmp_path):
    """SIGTERM to the second; what both saved is a save of one, and goes on alone."""
    folder = tmp_path / "run"
    with Pair(folder, FOREVER) as pair:
        pair.wait_for_step(64)
        pair.processes[1].send_signal(signal.SIGTERM)
        codes, said = pair.ended()
    assert codes == [143, 143], said
    assert all("stopped by SIGTERM at env step" in text and str(folder) in text for text in said)
    stopped = rows(folder)[-1]["step"]
    assert Checkpoints(folder / "checkpoints").find().step == stopped
    alone(folder, stopped + 32, resume=True)
    alone(tmp_path / "whole", stopped + 32)
    assert_same(rows(folder), rows(tmp_path / "whole"))
    losses = [row["loss/reward"] for row in rows(folder) if row.get("loss/reward")]
    assert len(set(losses)) == len(losses) > 2


def test_two_go_on_with_the_run_of_one(begun_alone, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(begun_alone[0], folder)
    with Pair(folder, 96, resume=True) as pair:
        codes, said = pair.ended()
    assert codes == [0, 0], said
    alone(tmp_path / "whole", 96)
    assert_same(rows(folder), rows(tmp_path / "whole"))
    saves = [Checkpoints(path / "checkpoints").find() for path in (folder, tmp_path / "whole")]
    assert saves[0].specs == saves[1].specs
    assert saves[0].step == saves[1].step == 96
    assert saves[0].metric == pytest.approx(saves[1].metric, abs=1e-5)


def test_who_is_killed_ends_the_other(begun_alone, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(begun_alone[0], folder)
    with Pair(folder, FOREVER, resume=True) as pair:
        pair.wait_for_step(80)
        os.kill(pair.processes[1].pid, signal.SIGKILL)
        codes, said = pair.ended()
    assert codes == [LOST, -signal.SIGKILL], said
    lines = [line for line in said[0].splitlines() if line.startswith("mbrl: ")]
    assert len(lines) == 1
    assert "process 1 on" in lines[0]
    assert "has died" in lines[0]
    assert "goes on from its last save" in lines[0]
    assert "Traceback" not in said[0]
    saved = Checkpoints(folder / "checkpoints").find().step
    assert alone(folder, saved + 16, resume=True).state.step == saved + 16


def test_one_process_needs_nobody():
    with hosts.join(Launch("127.0.0.1:7777", 1, 0), lambda: {"steps": (1, 2)}) as together:
        assert together.told == {"steps": [1, 2]}
        assert hosts.first()
        assert hosts.agree(3) == 3


def test_each_way_to_fail_has_its_code_and_sentence(capsys):
    assert hosts._reason(UserError("the folder is taken")) == (2, "the folder is taken")
    assert hosts._reason(KeyboardInterrupt()) == (130, "process 0 was interrupted at once, without saving")
    assert hosts._reason(ZeroDivisionError("by hand")) == (1, "process 0 failed: ZeroDivisionError: by hand")
    assert "ZeroDivisionError: by hand" in capsys.readouterr().err


def test_devices_must_be_as_many_everywhere(monkeypatch):
    of = lambda *numbers: lambda: [SimpleNamespace(process_index=number) for number in numbers]
    monkeypatch.setattr(hosts.jax, "devices", of(0, 0, 1, 1))
    hosts._check_devices()
    monkeypatch.setattr(hosts.jax, "devices", of(0, 0, 1))
    with pytest.raises(UserError, match=r"as many devices, but one has 1 and another 2"):
        hosts._check_devices()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"devices": 2}, "devices must be all, or the 4 that they have together, not 2"),
        ({"devices": "all", "seeds": 4}, "seeds must be 1, not 4"),
    ],
)
def test_what_several_hosts_cannot_do_is_refused(monkeypatch, changes, said):
    monkeypatch.setattr(devices.jax, "device_count", lambda: 4)
    with pytest.raises(UserError) as refused:
        devices.check_hosts(dataclasses.replace(CONFIG, **changes))
    assert said in str(refused.value)
