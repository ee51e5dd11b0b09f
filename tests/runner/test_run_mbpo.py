"""MBPO itself, tiny, from a config to a run's folder and back."""

import dataclasses
import json

import numpy as np
import tiny_run

from mbrl.agents.mbpo import MBPOConfig
from mbrl.behaviours.soft_actor_critic import SoftActorCriticConfig
from mbrl.envs.config import EnvConfig
from mbrl.runner import restore
from mbrl.runner.train import train
from mbrl.worldmodels.ensemble import EnsembleConfig

AGENT = MBPOConfig(
    worldmodel=EnsembleConfig(members=2, layers=1, units=8),
    behaviour=SoftActorCriticConfig(units=8, actor_layers=1, critic_layers=1),
    behaviour_updates=2,
)


def test_a_run_is_trained_logged_and_loaded(tmp_path):
    env = EnvConfig(name="probe/action")
    config = dataclasses.replace(tiny_run.CONFIG, agent=AGENT, env=env, steps=48, run_dir=str(tmp_path / "run"))
    result = train(config)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 48
    assert last["run/updates"] > 3
    assert last["update/skipped"] == 0
    assert {"eval/return_mean", "loss/observation", "loss/critic", "actor/temperature"} <= last.keys()
    learned = [value for name, value in last.items() if name.startswith(("loss/", "grad_norm/", "critic/"))]
    assert np.isfinite(learned).all()
    loaded = restore.load(tmp_path / "run", config)
    assert restore.evaluate(loaded, 2, seed=1).returns.shape == (2,)
    assert int(loaded.state.step) == int(result.state.step)
