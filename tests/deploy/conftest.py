"""One tiny run of Dreamer, saved before it was ever updated, for every test of deployment."""

import dataclasses
from pathlib import Path

import pytest
from tiny_run import CONFIG

from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.config import to_yaml
from mbrl.runner.epoch import make_program
from mbrl.runner.restore import load
from mbrl.runner.seeds import run_key


def save_untrained(config, path: Path) -> Path:
    """A run's folder with the state that training would have begun with."""
    state = make_program(config).init(run_key(config))
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config))
    Checkpoints(path / "checkpoints").save(state, 0, config=to_yaml(config))
    return path


@pytest.fixture(scope="session")
def config():
    """The run's config."""
    return dataclasses.replace(CONFIG, replay=dataclasses.replace(CONFIG.replay, capacity=64))


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory, config):
    """The run's folder."""
    return save_untrained(config, tmp_path_factory.mktemp("deploy") / "run")


@pytest.fixture(scope="session")
def loaded(run_dir, config):
    """The run, loaded."""
    return load(run_dir, config)
