"""One run for every test of deployment."""

import pytest
from untrained import CONFIG, save_untrained

from mbrl.deploy.policy import make_policy
from mbrl.runner.restore import load


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """The run's folder."""
    return save_untrained(CONFIG, tmp_path_factory.mktemp("deploy") / "run")


@pytest.fixture(scope="session")
def loaded(run_dir):
    """The run, loaded."""
    return load(run_dir, CONFIG)


@pytest.fixture(scope="session")
def policy(loaded):
    """What is served: it draws its actions."""
    return make_policy(loaded, mode="train")
