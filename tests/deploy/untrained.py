"""A tiny run of Dreamer, saved before it was ever updated."""

from pathlib import Path

from mbrl.agents.dreamer import DreamerConfig
from mbrl.behaviours.actor_critic import ActorCriticConfig
from mbrl.envs.config import EnvConfig
from mbrl.replay.config import ReplayConfig
from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.config import Config, to_yaml
from mbrl.runner.epoch import make_program
from mbrl.runner.seeds import run_key
from mbrl.worldmodels.rssm import RSSMConfig

# As few as can be: what these tests wait for is the compiler.
LAYERS = {"encoder_layers": 1, "decoder_layers": 1, "prior_layers": 1}
MODEL = RSSMConfig(deter=16, hidden=8, units=8, stoch=2, classes=3, blocks=2, bins=11, **LAYERS)
CONFIG = Config(
    agent=DreamerConfig(
        worldmodel=MODEL, behaviour=ActorCriticConfig(units=8, horizon=2, bins=11, actor_layers=1, critic_layers=1)
    ),
    env=EnvConfig(name="probe/cue"),
    replay=ReplayConfig(capacity=64, batch_size=2, batch_length=4),
    num_envs=4,
    epoch=16,
    prefill=16,
)


def save_untrained(config, path: Path) -> Path:
    """A run's folder with the state that training would have begun with."""
    state = make_program(config).init(run_key(config))
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config))
    Checkpoints(path / "checkpoints").save(state, 0, config=to_yaml(config))
    return path
