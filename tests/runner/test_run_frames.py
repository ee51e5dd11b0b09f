"""A run with its frames in the host's memory is the run it would be without, also where it goes on as the other."""

import dataclasses
import json

import dm_env
import jax
import numpy as np
import pytest
import toy_learner
from dm_env import specs

from mbrl.core.errors import UserError
from mbrl.envs import ENVS, HostEnv
from mbrl.envs.config import EnvConfig
from mbrl.runner import devices, restore
from mbrl.runner.checks import check_memory
from mbrl.runner.epoch import make_program
from mbrl.runner.leaves import to_host
from mbrl.runner.seeds import in_turn, pick, run_key, side_by_side
from mbrl.runner.train import template, train


class Seen(dm_env.Environment):
    """A picture in Python."""

    def __init__(self, seed):
        self._picture = np.full((4, 4, 3), seed % 256, np.uint8)

    def reset(self):
        return dm_env.restart(self._picture)

    def step(self, action):
        return dm_env.transition(float(action[0]), self._picture)

    def observation_spec(self):
        return specs.Array((4, 4, 3), np.uint8)

    def action_spec(self):
        return specs.BoundedArray((1,), np.float32, -1.0, 1.0)


def config(frames, **changes):
    made = dataclasses.replace(toy_learner.CONFIG, env=EnvConfig(name="probe/sight"), steps=64, **changes)
    return dataclasses.replace(made, replay=dataclasses.replace(made.replay, frames=frames))


def lines(run_dir):
    parsed = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in parsed]


def kinds(state):
    return [leaf.sharding.memory_kind for leaf in jax.tree.leaves(state)].count("pinned_host")


def assert_same(one, other):
    one, other = to_host(one), to_host(other)
    assert one.specs == other.specs
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)


def test_a_run_and_how_it_goes_on_the_other_way(tmp_path):
    runs = {name: train(config(name, run_dir=str(tmp_path / name))) for name in ("device", "host")}
    assert [kinds(run.state) for run in runs.values()] == [0, 1]
    assert_same(runs["device"].state, runs["host"].state)
    loaded = restore.load(runs["host"].run_dir, runs["host"].config)
    assert kinds(loaded.state) == 1  # never by way of the device, which may have no room for it
    assert_same(loaded.state, runs["host"].state)
    for name, run in zip(("host", "device"), [*runs.values()], strict=True):
        runs[name] = train(dataclasses.replace(config(name), steps=96), resume=run.run_dir)
    assert [kinds(runs[name].state) for name in ("device", "host")] == [0, 1]
    assert_same(runs["device"].state, runs["host"].state)
    assert lines(runs["device"].run_dir) == lines(runs["host"].run_dir)


@pytest.mark.parametrize("every", [in_turn, side_by_side])
def test_seeds(monkeypatch, every):
    monkeypatch.setattr("mbrl.runner.seeds.in_turn", every)  # what a CPU does, and what a GPU does
    states = []
    for frames in ("device", "host"):
        asked = config(frames, seeds=2, devices=1)
        program = make_program(asked)
        state, _ = program.prefill(program.init(run_key(asked)))
        states.append(program.epoch(state)[0])
    assert [kinds(state) for state in states] == [0, 1]
    assert_same(*states)
    assert_same(*(pick(asked, state, 1) for state in states))


def test_memory_is_told_apart(monkeypatch):
    asked = config("host")
    line = check_memory(asked, template(make_program(asked), asked))
    assert "256 steps in" in line
    assert line.endswith("16.0 KiB of it frames")  # 256 · 8 · 8 bytes
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "frames in 16.0 KiB of the" in check_memory(asked, template(make_program(asked), asked))


def test_refused(monkeypatch):
    monkeypatch.setitem(ENVS, "mine/seen", HostEnv(Seen))
    said = "^environment 'mine/seen' runs in Python, call by call, so replay.frames must be device, not host$"
    with pytest.raises(UserError, match=said):
        make_program(dataclasses.replace(config("host"), env=EnvConfig(name="mine/seen")))
    with pytest.raises(UserError, match="nothing in the observation is a frame"):
        make_program(dataclasses.replace(config("host"), env=EnvConfig(name="probe/cue")))
    with pytest.raises(UserError, match=r"^on several hosts replay.frames must be device, not host$"):
        devices.check_hosts(config("host", devices="all"))
