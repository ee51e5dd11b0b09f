"""A run of Dreamer that a planner acts for and teaches, as its folder has it: loaded, evaluated, exported."""

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
from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.config import to_yaml
from mbrl.runner.epoch import make_program
from mbrl.runner.leaves import to_host

FEW = {"samples": 4, "elites": 2, "iterations": 1, "horizon": 1}
CEM = dataclasses.replace(PLANNERS["cem"].config, **FEW)
MPPI = dataclasses.replace(PLANNERS["mppi"].config, **FEW, policy_samples=1)
AGENT = dataclasses.replace(TINY.agent, planner=MPPI, distil=DistilConfig("moment_match"))
CONFIG = dataclasses.replace(TINY, agent=AGENT, env=EnvConfig(name="probe/action"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The state after an epoch of random actions, and the folder that it was saved in."""
    folder = tmp_path_factory.mktemp("planned") / "run"
    program = make_program(CONFIG)
    state, _ = program.prefill(program.init(jax.random.key(0)))
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(CONFIG))
    Checkpoints(folder / "checkpoints").save(state, int(state.step), config=to_yaml(CONFIG))
    return to_host(state), folder


@pytest.fixture(scope="module")
def loaded(saved):
    return restore.load(saved[1], load(saved[1]))


def test_targets_are_saved_and_loaded_bit_for_bit(saved, loaded):
    ours, theirs = to_host(loaded.state), saved[0]
    assert ours.specs == theirs.specs
    assert all(ours.arrays[name].tobytes() == theirs.arrays[name].tobytes() for name in theirs.arrays)
    target = loaded.state.replay.data.context.target
    assert target.candidates.shape[-2:] == (2, 1)
    assert (np.asarray(target.searched)[: CONFIG.epoch // CONFIG.num_envs] == NEVER).all()  # nothing was planned


def test_it_is_evaluated_with_its_planner_another_and_none(loaded):
    own, other, alone = (restore.evaluate(loaded, 3, planner=x).returns for x in (None, CEM, NoPlannerConfig()))
    assert own.shape == other.shape == alone.shape == (3,)
    assert len({tuple(np.asarray(returns).tolist()) for returns in (own, other, alone)}) == 3


def test_it_is_exported_with_its_planner(loaded, tmp_path):
    path = tmp_path / "policy.bin"
    export.write(make_policy(loaded), path, 2, ("cpu",))
    policy = load_policy(path)
    shape = jax.tree.map(lambda spec: spec.shape, loaded.program.env.observation_spec)
    action, _ = policy.act(policy.initial(2), np.full((2, *shape), 0.5, np.float32), [True, True], 0)
    assert action.shape == (2, 1)
    assert (np.abs(action) <= 1).all()
