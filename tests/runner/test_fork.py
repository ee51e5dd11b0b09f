"""A run that goes on from another run's save, under another config."""

import jax
import pytest
from toy_run import StopAt, ToyConfig, go_on, start, toy_config

from mbrl.core.errors import UserError
from mbrl.runner import leaves
from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.fork import fork
from mbrl.runner.rundir import RunDir


def stop():
    raise KeyboardInterrupt


@pytest.fixture
def runs(tmp_path):
    """A finished run, and one that was stopped after its first save."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    result = start(whole, seed=1)
    with pytest.raises(KeyboardInterrupt):
        start(cut, reporter=StopAt(32, stop), agent=ToyConfig(rate=1e-4))
    return whole, cut, result


def bits(state):
    return {name: array.tobytes() for name, array in leaves.to_host(state).arrays.items()}


def test_a_run_goes_on_from_another_ones_save(runs):
    whole, cut, result = runs
    donor = Checkpoints(RunDir(whole).checkpoints).find()
    before = {path: path.read_bytes() for path in donor.path.rglob("*") if path.is_file()}
    changed = {"seed": 1, "agent": ToyConfig(rate=3e-4)}
    fork(donor.path, RunDir(cut), toy_config(**changed))
    with pytest.raises(UserError, match="64 of 64 env steps"):
        go_on(cut, **changed)
    assert go_on(cut, steps=72, **changed).state.step == 72
    taken = next((cut / "checkpoints").glob("*64"))
    state = result.program.init(jax.random.key(0))
    assert bits(Checkpoints(cut / "checkpoints").load(donor._replace(path=taken), state)) == bits(result.state)
    with pytest.raises(UserError, match="rate"):
        go_on(cut, steps=80, seed=1)
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_save_is_not_taken_over(runs):
    whole, cut, _ = runs
    donor = Checkpoints(RunDir(whole).checkpoints).find()
    (donor.path / "meta.json").write_text("{}")
    with pytest.raises(UserError, match=r"meta\.json has 2 bytes"):
        fork(donor.path, RunDir(cut), toy_config())
    assert go_on(cut, agent=ToyConfig(rate=1e-4)).state.step == 64
