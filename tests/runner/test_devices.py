"""Several devices come to the numbers of one."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from mbrl.core.errors import UserError
from mbrl.runner import devices

CONFIG = tiny_run.CONFIG


def on_eight(what):
    """Return what ``several_devices.py`` found in a process that has eight devices."""
    return apart(what, " --xla_force_host_platform_device_count=8")


def apart(what, flag=""):
    """Run ``several_devices.py`` in a process of its own; return what it found."""
    flags = os.environ["XLA_FLAGS"] + flag
    script = Path(__file__).with_name("several_devices.py")
    command = [sys.executable, str(script), what]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_same_losses(found, losses=("loss/total", "loss/actor", "loss/dynamics")):
    assert len(found["alone"]) == len(found["together"]) > 1
    assert found["alone"][-1].keys() >= set(losses)
    for alone, together in zip(found["alone"], found["together"], strict=True):
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            np.testing.assert_allclose(np.float64(together[name]), np.float64(value), 1e-5, 1e-5, err_msg=name)


def test_rows_on_eight_devices_are_those_of_one():
    found = on_eight("rows")
    assert_same_losses(found)
    assert found["updates"][0] == found["updates"][1] > 3
    assert found["difference"] < 1e-4
    # One exchange for all gradients and metrics; the others are the epoch's counters, a number each.
    large = [size for size in found["all_reduces"] if size > 1]
    assert len(large) == 1
    assert found["parameters"] < large[0] < found["parameters"] + 100
    # Returns are gathered, for their percentiles; parameters and experience never are.
    whole, parts = found["replay"]
    assert parts == [[whole[0], whole[1] // 8]] * 8
    assert found["envs"] == [[1]] * 8
    assert max(found["all_gathers"]) < np.prod(whole)


def test_frames_on_the_host_are_those_on_eight_devices():
    for found in on_eight("frames").values():
        assert found == {"same": True, "kind": "pinned_host", "devices": 8}


def test_a_model_split_over_eight_devices_learns_as_a_whole_one():
    found = on_eight("fsdp")
    assert_same_losses(found)
    assert found["difference"] < 1e-4
    # Of what the optimiser remembers each device has an eighth; much of so little a model is too small to split.
    assert [columns for _, columns in found["optimiser"]] == [16, 16]
    whole, own = found["bytes"]
    assert own < 0.3 * whole
    assert found["whole"]


def test_seeds_on_eight_devices_exchange_nothing():
    found = on_eight("seeds")
    assert_same_losses(found)
    assert found["exchanges"] == []
    assert found["params"] == [1] * 8
    together, alone = found["returns"]
    np.testing.assert_allclose(together, alone, 1e-4)


def test_a_run_that_goes_on_on_eight_devices_and_back_on_one_is_that_which_stayed():
    found = on_eight("moves")
    assert found["devices"] == [1, 8, 1]
    assert_same_losses(found, ["loss/reward", "eval/return_mean"])
    losses = [line["loss/reward"] for line in found["alone"][1:]]
    assert len(losses) == 3
    assert min(abs(np.diff(losses))) > 0.01  # so it matters what was learned before a move
    assert found["same_kinds"]
    assert found["different"] == []


@pytest.mark.parametrize(
    ("changes", "present", "said"),
    [
        ({"devices": 2}, 1, "devices must lie between 1 and the 1 that this machine has, or be all or auto, not 2"),
        ({"devices": 0}, 4, "not 0"),
        ({"devices": "all"}, 4, "replay.batch_size 2 must both be multiples of it"),
        ({"devices": 1, "fsdp": True}, 4, "fsdp splits a model over 2, 4, 8, … 128 devices, and this run has 1"),
        ({"devices": 3, "fsdp": True}, 4, "and this run has 3"),
        ({"devices": 2, "seeds": 3}, 4, "seeds 3 must be a multiple of devices, 2"),
    ],
)
def test_impossible_devices_are_refused(monkeypatch, changes, present, said):
    monkeypatch.setattr(devices.jax, "devices", lambda: [None] * present)
    with pytest.raises(UserError) as refused:
        devices.mesh(dataclasses.replace(CONFIG, **changes))
    assert said in str(refused.value)


def test_one_device_needs_no_mesh():
    assert devices.mesh(CONFIG) is None
    assert devices.mesh(dataclasses.replace(CONFIG, devices="all")) is None
    assert devices.mesh(dataclasses.replace(CONFIG, seeds=2)) is None


@pytest.mark.parametrize(
    ("seeds", "platform", "count"), [(8, "cpu", 4), (6, "cpu", 3), (5, "cpu", 1), (8, "gpu", 1), (1, "cpu", 1)]
)
def test_seeds_take_as_many_cores_as_divide_them(monkeypatch, seeds, platform, count):
    monkeypatch.setattr(devices.jax, "devices", lambda: list(range(4)))
    monkeypatch.setattr(devices.jax, "default_backend", lambda: platform)
    mesh = devices.mesh(dataclasses.replace(CONFIG, seeds=seeds))
    assert (1 if mesh is None else mesh.size) == count


def test_a_run_of_seeds_splits_the_cpu_and_comes_to_the_numbers_of_one_core():
    found = apart("cores")
    assert found["devices"] == [2, 1, 1]
    # Both cores' memory counts: their states are in the machine's.
    split, _, whole = found["held"]
    np.testing.assert_allclose(split, whole, rtol=0.01)
    assert_same_losses(found, ["loss/reward", "eval/return_mean"])
