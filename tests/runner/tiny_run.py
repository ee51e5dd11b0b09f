"""A run of Dreamer itself, tiny, for the tests that need the real agent."""

from mbrl.agents.dreamer import DreamerConfig
from mbrl.behaviours.actor_critic import ActorCriticConfig
from mbrl.envs.config import EnvConfig
from mbrl.replay.config import ReplayConfig
from mbrl.runner.config import CheckpointConfig, Config, EvalConfig
from mbrl.worldmodels.rssm import RSSMConfig

MODEL = RSSMConfig(deter=16, hidden=8, units=8, stoch=2, classes=3, blocks=2, bins=11)
CONFIG = Config(
    agent=DreamerConfig(worldmodel=MODEL, behaviour=ActorCriticConfig(units=8, horizon=2, bins=11)),
    env=EnvConfig(name="probe/cue"),
    replay=ReplayConfig(capacity=256, batch_size=2, batch_length=4),
    evaluation=EvalConfig(every=32, episodes=2),
    checkpoint=CheckpointConfig(every=32),
    steps=96,
    epoch=16,
    num_envs=4,
    prefill=16,
    train_ratio=4.0,
)
