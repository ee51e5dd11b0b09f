"""PETS solves two probes within an epoch of acting by itself, and does not when what ends an episode is not known."""

import dataclasses

import jax.numpy as jnp
import pytest
from epochs import epochs, evaluation

from mbrl.agents.pets import PETSConfig
from mbrl.core.distributions import Bernoulli
from mbrl.envs.config import EnvConfig
from mbrl.planners.shooting import ShootingConfig
from mbrl.replay.config import ReplayConfig
from mbrl.runner.config import Config
from mbrl.worldmodels.ensemble import EnsembleConfig

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
    steps=960,
)


def play(name, horizon, seed=0):
    """Act for 320 steps after 640 random ones, with an update for each; return the mean return of 32 fresh episodes."""
    agent = dataclasses.replace(CONFIG.agent, planner=dataclasses.replace(PLANNER, horizon=horizon))
    config = dataclasses.replace(CONFIG, env=EnvConfig(f"probe/{name}"), agent=agent)
    *_, (program, state, _) = epochs(config, seed, level=0)
    assert state.faults.updates == 0
    found = evaluation(program.agent, config.env)(state)
    print(name, found)
    return found


def test_action_probe_is_solved():
    assert play("action", horizon=1) > 9  # 0 at random, 10 at best; ten other seeds come to 9.99 at least


def test_terminal_probe_is_solved():
    # 1.5 at random, 5 for always waiting, 5.5 at best, which hardly one of 640 random steps has shown. Ten seeds: 5.0.
    assert play("terminal", horizon=10) > 4.5


def test_terminal_probe_notices_a_missing_discount(monkeypatch):
    """Plans that never end take the terminal's reward again and again."""
    monkeypatch.setattr(Bernoulli, "mean", lambda self: jnp.ones_like(self.logits))
    assert play("terminal", horizon=10) < 2
