"""Trials as jobs, by submitit's own stand-in for a cluster."""

import sys
import time

import pytest

from mbrl.core.errors import UserError
from mbrl.sweeps import trial


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_slurm_runs_what_is_submitted(here, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.LocalJob, "_results_timeout_s", 0.0)  # no network disk whose files come late
    slurm = trial.Slurm(here / "jobs", {"timeout_min": 1}, cluster="local")
    ends = {"good": "raise SystemExit(0)", "bad": "raise SystemExit('mbrl: out of memory')"}
    ends["taken"] = "import os; os.kill(os.getppid(), 9)"  # as a scheduler does that has waited long enough
    jobs = [slurm.launch([sys.executable, "-c", code], here / f"{name}.log") for name, code in ends.items()]
    while any(job.poll() is None for job in jobs):
        time.sleep(0.05)
    assert [job.poll() for job in jobs] == [0, 1, 143]
    assert trial.trouble(here / "bad.log").endswith("mbrl: out of memory")
    with pytest.raises(UserError, match="SLURM cannot be used from here"):
        trial.Slurm(here / "jobs", {"no_such_option": 1}, cluster="local")


def test_without_slurm(here, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="SLURM cannot be used from here"):
        trial.Slurm(here / "jobs", {})
