"""What the doctor says of a machine, sound or not."""

import json
import time

import pytest

from mbrl.cli.main import main
from mbrl.deploy import doctor, doctor_machine


@pytest.fixture
def untried(monkeypatch):
    """No process is started: devices and graphics are as a test says."""
    answers = {"-m": (0, '[{"platform": "cpu", "kind": "cpu", "count": 1, "seconds": 0.1, "error": 1e-6}]', ""),
               "-c": (0, "", "")}
    monkeypatch.setattr(doctor, "_tried", lambda words, _: answers[words[0]])
    return answers


def found(capsys, code=0):
    assert main(["doctor", "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    return told, {finding["name"]: finding for finding in told["findings"]}


def test_it_examines_this_machine_in_time(capsys):
    begin = time.perf_counter()
    told, by_name = found(capsys)
    assert time.perf_counter() - begin < 20  # 10 s alone; tests share the machine
    assert told["failed"] == 0
    assert by_name["jax cpu"]["status"] == "ok"
    assert "its numbers are right" in by_name["jax cpu"]["said"]
    assert {"cores", "memory", "disk of runs", "compile cache", "clock", "Python", "packages"} <= by_name.keys()


@pytest.mark.usefixtures("untried")
def test_a_page_to_read(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in {"ok", "warn", "fail"} for line in lines[:-1])
    assert lines[-1].startswith("0 failed, ")


def test_a_device_that_computes_wrongly_or_not_at_all_fails(untried, capsys):
    untried["-m"] = (0, '[{"platform": "gpu", "kind": "X", "count": 2, "seconds": 0.1, "error": 0.5}]', "")
    _, by_name = found(capsys, 1)
    assert "its numbers are wrong by 0.5" in by_name["jax gpu"]["said"]
    untried["-m"] = (0, '[{"platform": "gpu", "kind": "X", "count": 2, "seconds": 0.1, "error": NaN}]', "")
    assert found(capsys, 1)[1]["jax gpu"]["status"] == "fail"
    untried["-m"] = (-11, "", "exit code -11")
    assert "exit code -11" in found(capsys, 1)[1]["jax"]["said"]
    for answer in ((None, "", "no answer within 8 seconds"), (0, "what\n", "")):
        untried["-m"] = answer
        assert found(capsys)[1]["jax"]["status"] == "warn"


def test_versions_are_numbers():
    assert doctor._release("0.10.0") > doctor._release("0.9.2")
    assert doctor._release("0.10.2.dev3+g12") == (0, 10, 2)


def test_a_child_imports_nothing_from_where_it_runs(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert doctor._tried(["-c", "import json"], {})[0] == 0


def test_graphics_that_do_not_work_are_a_warning(untried, capsys):
    untried["-c"] = (1, "", "no EGL")
    _, by_name = found(capsys)
    assert (by_name["MuJoCo GL"]["status"], "no EGL" in by_name["MuJoCo GL"]["said"]) == ("warn", True)


@pytest.mark.usefixtures("untried")
def test_a_check_that_breaks_down_is_a_finding(monkeypatch, capsys):
    def broken():
        raise RuntimeError("no such bus")
        yield

    monkeypatch.setattr(doctor_machine, "memory", broken)
    _, by_name = found(capsys)
    assert by_name["memory"]["said"] == "could not be checked (RuntimeError: no such bus)"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("JAX_DEBUG_NANS", "1", "every operation waits"),
        ("JAX_DISABLE_JIT", "true", "nothing is compiled"),
        ("OMP_NUM_THREADS", "4096", "4096 threads on"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=8", "made to look like several devices"),
        ("MPLBACKEND", "TkAgg", "opens windows, but there is no DISPLAY"),
    ],
)
def test_settings_that_hurt_are_named(name, value, said, monkeypatch):
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    assert [line for line in doctor_machine.settings() if line[1] == name and said in line[2] and line[0] == "warn"]
    monkeypatch.setenv(name, "0" if name.startswith("JAX") else "1" if name.startswith("OMP") else "")
    assert not [line for line in doctor_machine.settings() if line[1] == name]


def test_memory_and_disks_that_are_full(monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 2**28, "total": 2**25})
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda _: usage)
    assert next(doctor_machine.disk("runs", tmp_path / "a" / "b"))[0] == "fail"
    assert next(doctor_machine.disk("compile cache", tmp_path))[0] == "warn"
    assert next(doctor_machine.shared_memory())[0] == "warn"
    bounds = {"memory.max": 2**29, "memory.current": 2**28}
    monkeypatch.setattr(doctor_machine, "_cgroup", bounds.get)
    status, _, said, _ = next(doctor_machine.memory())
    assert (status, said) == ("fail", "0.2 of 0.5 GiB free")


def test_a_process_that_hangs_or_dies_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "_SECONDS", 0.3)
    assert doctor._tried(["-c", "while True: pass"], {})[0] is None
    monkeypatch.setattr(doctor, "_SECONDS", 30.0)
    code, _, complaint = doctor._tried(["-c", "import os, sys; print('bus', file=sys.stderr); os.abort()"], {})
    assert (code, complaint) == (-6, "bus")
