"""One run for every test of deployment."""

import pytest
from untrained import CONFIG, save_untrained

from mbrl.runner.restore import load


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """The run's folder."""
    return save_untrained(CONFIG, tmp_path_factory.mktemp("deploy") / "run")


@pytest.fixture(scope="session")
def loaded(run_dir):
    """The run, loaded."""
    return load(run_dir, CONFIG)
