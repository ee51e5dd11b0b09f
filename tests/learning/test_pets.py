"""PETS solves two probes, from a config to a run's folder, and does not when what they probe is broken."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.agents.pets import PETSConfig
from mbrl.core.distributions import Bernoulli
from mbrl.envs.config import EnvConfig
from mbrl.planners.shooting import ShootingConfig
from mbrl.replay.config import ReplayConfig
from mbrl.runner.config import Config, EvalConfig
from mbrl.runner.train import train
from mbrl.worldmodels.ensemble import Ensemble, EnsembleConfig

pytestmark = pytest.mark.learning

PLANNER = ShootingConfig(
    "cem", samples=32, horizon=1, iterations=3, elites=6, policy_samples=0, weighting="alike", max_std=1.0
)
CONFIG = Config(
    agent=PETSConfig(
        worldmodel=EnsembleConfig(members=3, layers=2, units=32), planner=PLANNER, particles=3, keep_member=False
    ),
    num_envs=8,
    prefill=640,
    epoch=320,
    train_ratio=160.0,
    replay=ReplayConfig(capacity=1280, batch_size=16, batch_length=10),
    evaluation=EvalConfig(every=960, episodes=32, gap=False),
    seeds=2,
    steps=960,
)


def play(folder, name, horizon):
    """Train two seeds on 320 steps after 640 random ones; return each one's evaluation."""
    agent = dataclasses.replace(CONFIG.agent, planner=dataclasses.replace(PLANNER, horizon=horizon))
    config = dataclasses.replace(CONFIG, env=EnvConfig(f"probe/{name}"), agent=agent, run_dir=str(folder))
    train(config)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["update/skipped"] == 0
    print(last["seeds"]["eval/return_mean"])
    return np.array(last["seeds"]["eval/return_mean"])


def test_action_probe_is_solved(tmp_path):
    assert (play(tmp_path / "run", "action", horizon=1) > 8.5).all()  # 10 at best, 0 at random


def test_action_probe_notices_actions_that_are_dreamt_in_reverse(tmp_path, monkeypatch):
    propagate = Ensemble.propagate
    reverse = lambda self, p, key, z, action, keep: propagate(self, p, key, z, -action, keep=keep)
    monkeypatch.setattr(Ensemble, "propagate", reverse)
    assert (play(tmp_path / "run", "action", horizon=1) < 0).all()


def test_terminal_probe_is_solved(tmp_path):
    assert (play(tmp_path / "run", "terminal", horizon=10) > 4.5).all()  # 5.5 at best, 1.5 at random


def test_terminal_probe_notices_a_missing_discount(tmp_path, monkeypatch):
    """Plans that never end take the terminal's reward again and again."""
    monkeypatch.setattr(Bernoulli, "mean", lambda self: jnp.ones_like(self.logits))
    assert (play(tmp_path / "run", "terminal", horizon=10) < 2).all()
