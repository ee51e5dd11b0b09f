"""A run of Dreamer that a planner acts for and teaches: two seeds, stopped and going on, evaluated, exported."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_run import CONFIG as TINY

from mbrl.agents.distilling import DistilConfig
from mbrl.agents.searching import NEVER
from mbrl.cli.config import load
from mbrl.deploy import export
from mbrl.deploy.load import load_policy
from mbrl.deploy.policy import make_policy
from mbrl.envs.config import EnvConfig
from mbrl.planners import PLANNERS, NoPlannerConfig
from mbrl.runner import restore
from mbrl.runner.leaves import to_host
from mbrl.runner.train import train

MPPI = dataclasses.replace(
    PLANNERS["mppi"].config, samples=6, elites=3, policy_samples=2, iterations=2, horizon=2
)
CEM = dataclasses.replace(PLANNERS["cem"].config, samples=4, elites=2, iterations=1, horizon=1)
AGENT = dataclasses.replace(TINY.agent, planner=MPPI, distil=DistilConfig("moment_match", reanalyse=0.5))
CONFIG = dataclasses.replace(TINY, agent=AGENT, env=EnvConfig(name="probe/action"), seeds=2, steps=64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(dataclasses.replace(CONFIG, run_dir=str(tmp_path_factory.mktemp("planned") / "whole")))


def test_targets_survive_a_stop_bit_for_bit(whole, tmp_path):
    folder = str(tmp_path / "stopped")
    train(dataclasses.replace(CONFIG, steps=48, run_dir=folder))
    resumed = train(load(folder, {"steps": 64}), resume=folder)
    ours, theirs = to_host(resumed.state), to_host(whole.state)
    assert ours.specs == theirs.specs
    assert all(ours.arrays[name].tobytes() == theirs.arrays[name].tobytes() for name in theirs.arrays)
    searched = np.asarray(resumed.state.replay.data.context.target.searched)
    assert (searched == NEVER).any()  # random actions that nothing was planned for
    assert (searched > 0).any()
    np.testing.assert_array_equal(resumed.state.agent.updates, np.full(2, int(resumed.state.updates)))


def test_it_is_evaluated_with_its_planner_another_and_none(whole):
    loaded = restore.load(whole.run_dir, CONFIG)
    found = [restore.evaluate(loaded, 2, planner=planner).returns for planner in (None, CEM, NoPlannerConfig())]
    assert all(returns.shape == (2, 2) for returns in found)
    assert all(np.isfinite(returns).all() for returns in found)
    assert (found[0] != found[2]).any()
    assert (found[0] != found[1]).any()


def test_it_is_exported_with_its_planner(whole, tmp_path):
    loaded, path = restore.load(whole.run_dir, CONFIG), tmp_path / "policy.bin"
    export.write(make_policy(loaded, member=1), path, 2, ("cpu",))
    policy, observation = load_policy(path), np.array([[0.5, 0.0], [-0.5, 0.0]], np.float32)
    action, _ = policy.act(policy.initial(2), observation, [True, True], 0)
    assert action.shape == (2, 1)
    assert (np.abs(jax.device_get(action)) <= 1).all()
