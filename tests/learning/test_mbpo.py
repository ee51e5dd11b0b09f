"""MBPO solves a probe, from a config to a run's folder, and does not when its model is told the wrong actions."""

import dataclasses
import json

import numpy as np
import pytest

from mbrl.agents.mbpo import MBPOConfig
from mbrl.behaviours.soft_actor_critic import SoftActorCriticConfig
from mbrl.envs.config import EnvConfig
from mbrl.replay.config import ReplayConfig
from mbrl.runner.config import Config, EvalConfig
from mbrl.runner.train import train
from mbrl.worldmodels.ensemble import Ensemble, EnsembleConfig

pytestmark = pytest.mark.learning

AGENT = MBPOConfig(
    worldmodel=EnsembleConfig(members=3, layers=2, units=32),
    behaviour=SoftActorCriticConfig(units=32, actor_layers=1, critic_layers=1),
    behaviour_updates=8,
)
CONFIG = Config(
    agent=dataclasses.replace(AGENT, behaviour_optim=dataclasses.replace(AGENT.behaviour_optim, learning_rate=1e-3)),
    env=EnvConfig("probe/action"),
    num_envs=8,
    prefill=1280,
    epoch=640,
    train_ratio=64.0,
    replay=ReplayConfig(capacity=2560, batch_size=16, batch_length=10),
    evaluation=EvalConfig(every=1920, episodes=32, gap=False),
    seeds=2,
    steps=1920,
)


def play(folder):
    """Train two seeds on 640 steps after 1280 random ones; return each one's evaluation, 10 at best, and the log."""
    result = train(dataclasses.replace(CONFIG, run_dir=str(folder)))
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    returns = last["seeds"]["eval/return_mean"]
    assert result.metrics["eval/return_mean"] == pytest.approx(np.mean(returns))
    print(returns)
    return np.array(returns), last


def test_action_probe_is_solved(tmp_path):
    returns, last = play(tmp_path / "run")
    assert (returns > 8.5).all()
    assert last["step"] == 1920
    assert last["update/skipped"] == 0
    learned = [value for name, value in last.items() if name.startswith(("loss/", "grad_norm/", "critic/", "model/"))]
    assert len(learned) > 10
    assert np.isfinite(learned).all()


def test_action_probe_notices_actions_that_are_dreamt_in_reverse(tmp_path, monkeypatch):
    """Critics that believe such a model lead the wrong way; the replayed steps among the imagined are too few."""
    dealt = Ensemble._dealt
    monkeypatch.setattr(Ensemble, "_dealt", lambda s, p, x, action, turn: dealt(s, p, x, -action, turn))
    assert (play(tmp_path / "run")[0] < 0).all()
