"""Brax's three training loops from their first step to a folder that is evaluated again; each compiles for a while."""

import dataclasses

import pytest

from mbrl.agents.brax import APGConfig, PPOConfig, SACConfig
from mbrl.envs.config import EnvConfig
from mbrl.runner import restore
from mbrl.runner.config import CheckpointConfig, Config, EvalConfig
from mbrl.runner.loggers import read_metrics
from mbrl.runner.rundir import RunDir
from mbrl.runner.train import train

CONFIG = Config(
    agent=None,
    env=EnvConfig("probe/action"),
    num_envs=8,
    evaluation=EvalConfig(episodes=4),
    checkpoint=CheckpointConfig(every=10**6),
)
SAC = SACConfig(learning_rate=3e-3, batch_size=32, min_replay_size=64, grad_updates_per_step=2, hidden_layer_sizes=(8,))
PPO = PPOConfig(
    learning_rate=1e-2, batch_size=16, num_minibatches=4, unroll_length=5, num_updates_per_batch=4,
    normalize_observations=True, policy_hidden_layer_sizes=(8,), value_hidden_layer_sizes=(8,),
)
APG = APGConfig(learning_rate=1e-2, horizon_length=10, hidden_layer_sizes=(8,), normalize_observations=True)


@pytest.mark.parametrize(
    ("agent", "steps", "told", "metric"),
    [
        (SAC, 2064, [1064, 2064], "train/critic_loss"),
        (PPO, 3840, [960, 1920, 2880, 3840], "train/policy_loss"),
        (APG, 2880, [960, 1920, 2880], "train/grad_norm"),
    ],
    ids=["sac", "ppo", "apg"],
)
def test_it_learns_and_its_folder_is_evaluated_to_the_same_number(agent, steps, told, metric, tmp_path):
    config = dataclasses.replace(
        CONFIG, agent=agent, steps=steps, evaluation=EvalConfig(every=1000, episodes=4), run_dir=str(tmp_path / "run")
    )
    result = train(config)
    rows = read_metrics(RunDir(result.run_dir))
    assert [row["step"] for row in rows] == told
    assert rows[0][metric] != rows[-1][metric]
    # The optimum is 10, acting at random brings 0.
    assert rows[-1]["eval/return_mean"] > 2
    loaded = restore.load(result.run_dir, config)
    assert restore.evaluate(loaded, 5).returns.tolist() == restore.evaluate(result, 5).returns.tolist()
