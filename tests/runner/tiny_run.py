"""A run of Dreamer itself, tiny, for the tests that need the real agent."""

from mbrl.agents.dreamer import DreamerConfig
from mbrl.behaviours.actor_critic import ActorCriticConfig
from mbrl.envs.config import EnvConfig
from mbrl.replay.config import ReplayConfig
from mbrl.runner.config import CheckpointConfig, Config, EvalConfig
from mbrl.worldmodels.rssm import RSSMConfig

# As few as can be: what these tests wait for is the compiler.
LAYERS = {"encoder_layers": 1, "decoder_layers": 1, "prior_layers": 1}
MODEL = RSSMConfig(deter=16, hidden=8, units=8, stoch=2, classes=3, blocks=2, bins=11, **LAYERS)
BEHAVIOUR = ActorCriticConfig(units=8, horizon=2, bins=11, actor_layers=1, critic_layers=1)
CONFIG = Config(
    agent=DreamerConfig(worldmodel=MODEL, behaviour=BEHAVIOUR),
    env=EnvConfig(name="probe/cue"),
    replay=ReplayConfig(capacity=256, batch_size=2, batch_length=4),
    evaluation=EvalConfig(every=32, episodes=2, gap=False),  # a program less to compile
    checkpoint=CheckpointConfig(every=32),
    steps=96,
    epoch=16,
    num_envs=4,
    prefill=16,
    train_ratio=4.0,
)
