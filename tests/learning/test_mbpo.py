"""MBPO solves a probe, and does not when its model is told the wrong actions."""

import dataclasses

import jax
import pytest

from mbrl.agents.mbpo import MBPOConfig
from mbrl.behaviours.soft_actor_critic import SoftActorCriticConfig
from mbrl.envs import make_vector
from mbrl.envs.config import EnvConfig
from mbrl.evaluation.rollout import make_evaluate
from mbrl.replay.config import ReplayConfig
from mbrl.runner.config import Config
from mbrl.runner.epoch import make_program
from mbrl.worldmodels.ensemble import Ensemble, EnsembleConfig

pytestmark = pytest.mark.learning

AGENT = MBPOConfig(
    worldmodel=EnsembleConfig(members=3, layers=2, units=32),
    behaviour=SoftActorCriticConfig(units=32, actor_layers=1, critic_layers=1),
    behaviour_updates=8,
)
CONFIG = Config(
    agent=dataclasses.replace(
        AGENT, behaviour_optim=dataclasses.replace(AGENT.behaviour_optim, learning_rate=1e-3)
    ),
    env=EnvConfig("probe/action"),
    num_envs=8,
    prefill=1280,
    epoch=640,
    train_ratio=64.0,
    replay=ReplayConfig(capacity=2560, batch_size=16, batch_length=10),
)


def play():
    """Train on 640 steps after 1280 random ones; return the mean return of 32 fresh episodes, 10 at best."""
    program = make_program(CONFIG)
    state = program.init(jax.random.key(0))
    while int(state.step) < CONFIG.prefill:
        state, _ = program.prefill(state)
    state, _ = program.epoch(state)
    evaluate = make_evaluate(program.agent, make_vector(CONFIG.env, 32), 32)
    returns = float(evaluate(state.agent, jax.random.key(1)).returns.mean())
    print(f"{returns:.3f}")
    return returns


def test_action_probe_is_solved():
    assert play() > 8.5


def test_action_probe_notices_actions_that_are_dreamt_in_reverse(monkeypatch):
    """Critics that believe such a model lead the wrong way; the replayed steps among the imagined are too few."""
    dealt = Ensemble._dealt
    monkeypatch.setattr(Ensemble, "_dealt", lambda s, p, x, action, turn: dealt(s, p, x, -action, turn))
    assert play() < 0
