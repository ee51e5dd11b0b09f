"""NaN in a run as a user starts it: what was broken is left out and counted, until it is too much."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
import toy_learner

import mbrl
from mbrl.envs import registry
from mbrl.envs.config import EnvConfig
from mbrl.envs.probes import Cue
from mbrl.replay.ring import Ring
from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.config import EvalConfig
from mbrl.runner.stop import RunFailedError

NEVER = EvalConfig(every=10**6, episodes=2, gap=False)


class Breaking(Cue):
    """Its physics breaks down in the third step of each episode, for good."""

    def step(self, state, action):
        state, timestep = super().step(state, action)
        spoil = lambda x: jnp.where(state.time >= 3, jnp.nan, x)
        return state._replace(owed=spoil(state.owed)), timestep._replace(observation=spoil(timestep.observation))


def fail(folder, config):
    """Train until the run stops itself; return its lines, the newest save's arrays and what was said."""
    with pytest.raises(RunFailedError) as failed:
        mbrl.train(dataclasses.replace(config, run_dir=str(folder), evaluation=NEVER))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    saves = Checkpoints(folder / "checkpoints")
    saved = saves.find()
    assert saved.step == lines[-1]["step"]
    return lines, saves.arrays(saved), str(failed.value)


def broken(arrays):
    """The names of the arrays that have a number in them that is not finite."""
    real = {name: np.asarray(x, np.float32) for name, x in arrays.items() if x.dtype.kind in "fV"}
    return [name for name, x in real.items() if not np.isfinite(x).all()]


def test_broken_physics_is_cut_off_and_counted_and_too_much_of_it_stops_the_run(tmp_path, monkeypatch):
    """In each epoch, of four steps, each of the four environments breaks once and starts over."""
    monkeypatch.setitem(registry.ENVS, "toy/breaking", Breaking)
    config = dataclasses.replace(toy_learner.CONFIG, env=EnvConfig(name="toy/breaking"), max_faults=12)
    lines, arrays, said = fail(tmp_path / "run", config)
    assert [line["fault/physics"] for line in lines] == [4, 8, 12, 16]
    assert [line["episode/length"] for line in lines] == [3] * 4
    assert np.isfinite([line["loss/reward"] for line in lines[1:]]).all()
    assert broken(arrays) == []
    assert "stopped at env step 64: 0 updates and 16 physics steps" in said
    assert "no update was among them" in said
    assert not (tmp_path / "run" / "faults" / "batch.npz").exists()


def test_an_update_on_a_broken_batch_is_skipped_and_too_many_of_them_stop_the_run(tmp_path, monkeypatch):
    """One reward in the replay is NaN: whatever draws it is skipped, all else is learned from."""
    add = Ring.add

    def spoil(ring, state, step):
        reward = step.timestep.reward
        spoilt = reward.at[0].set(jnp.where(state.cursor == 3, jnp.nan, reward[0]))
        return add(ring, state, step._replace(timestep=step.timestep._replace(reward=spoilt)))

    monkeypatch.setattr(Ring, "add", spoil)
    updates = 8  # of an epoch: the first cannot be too much
    config = dataclasses.replace(tiny_run.CONFIG, max_faults=updates, steps=10**6)
    lines, arrays, said = fail(tmp_path / "run", config)
    learning = lines[1:]
    skipped = np.cumsum([line["update/skipped"] for line in learning])
    assert [line["fault/updates"] for line in learning] == skipped.tolist()
    assert skipped[-1] > updates >= skipped[-2] > 0
    assert np.isfinite([line["loss/total"] for line in learning]).all()
    assert [line["fault/physics"] for line in lines] == [0] * len(lines)
    assert [line["run/updates"] for line in learning] == [updates * (i + 1) for i in range(len(learning))]
    (taken,) = [int(x) for name, x in arrays.items() if name.startswith("agent.optimiser") and name.endswith("steps")]
    assert taken == updates * len(learning) - skipped[-1]
    # The batch is kept as it was drawn; nothing that was learned, remembered or refreshed has anything of it.
    assert broken(arrays) == ["faults.batch.timestep.reward", "replay.data.timestep.reward"]
    path = tmp_path / "run" / "faults" / "batch.npz"
    assert f"{skipped[-1]:.0f} updates and 0 physics steps" in said
    assert str(path) in said
    with np.load(path, allow_pickle=False) as batch:
        assert broken(batch) == ["timestep.reward"]
        assert np.isnan(batch["timestep.reward"]).sum(0).max() == 1
        assert batch["timestep.observation"].shape[:2] == batch["action"].shape[:2] == (5, 2)
