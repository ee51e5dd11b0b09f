"""Several seeds in one program: each is the run it would be alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_run

from mbrl.core.errors import UserError
from mbrl.runner import restore
from mbrl.runner.checks import check
from mbrl.runner.epoch import make_program
from mbrl.runner.report import make_report
from mbrl.runner.seeds import AXES, in_turn, pick, run_key, side_by_side, summarise
from mbrl.runner.train import train

CONFIG = dataclasses.replace(tiny_run.CONFIG, seed=5, seeds=2, steps=64)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    return train(dataclasses.replace(CONFIG, run_dir=str(folder)))


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_seed_is_the_run_it_would_be_alone(finished):
    number = 1
    config = dataclasses.replace(CONFIG, seed=CONFIG.seed + number, seeds=1)
    program = make_program(config)
    state, _ = program.prefill(program.init(run_key(config)))
    while int(state.step) < config.steps:
        state, _ = program.epoch(state)
    one = pick(finished.config, finished.state, number)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), one) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    np.testing.assert_allclose(one.replay.data.timestep.reward, state.replay.data.timestep.reward, atol=1e-5)
    assert int(one.updates) == int(state.updates) > 0
    for ours, theirs in zip(jax.tree.leaves(one.agent.params), jax.tree.leaves(state.agent.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_log_has_means_and_each_seed(finished):
    last = rows(finished.run_dir)[-1]
    each = last["seeds"]["loss/total"]
    assert len(set(each)) == 2
    assert last["loss/total"] == pytest.approx(np.mean(each))
    assert last["run/updates"] == int(finished.state.updates)
    assert len(last["seeds"]["eval/return_mean"]) == 2


def test_a_run_of_seeds_goes_on_and_is_evaluated_and_reported(finished):
    config = dataclasses.replace(CONFIG, steps=80)
    again = train(config, resume=finished.run_dir)
    assert int(again.state.step) == 80
    loaded = restore.load(finished.run_dir, config)
    evaluation = restore.evaluate(loaded, episodes=3)
    assert evaluation.returns.shape == (2, 3)
    one = dataclasses.replace(config, seeds=1)
    alone = restore.Loaded(one, make_program(one), pick(config, loaded.state, 1))
    np.testing.assert_allclose(restore.evaluate(alone, episodes=3).returns, evaluation.returns[1], rtol=1e-4)
    page = make_report(finished.run_dir, config, loaded.program, loaded.state).read_text()
    assert "2 in one program" in page
    assert "5: " in page
    assert "6: " in page


def test_in_turn_is_side_by_side():
    program = make_program(CONFIG)
    alone = make_program(dataclasses.replace(CONFIG, seeds=1)).epoch
    state, _ = program.prefill(program.init(run_key(CONFIG)))
    found = [jax.jit(every(alone))(state) for every in (in_turn, side_by_side)]
    (ours, metrics), (theirs, expected) = found
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found[0]) == jax.tree.map(lambda x: (x.shape, x.dtype), found[1])
    assert int(ours.updates) == int(theirs.updates) > 0
    for x, y in zip(jax.tree.leaves(ours.agent.params), jax.tree.leaves(theirs.agent.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_loops_stay_loops():
    """A number that every seed shares has no axis of seeds: conditions on it are not turned into both branches."""
    program = make_program(CONFIG)
    state = jax.eval_shape(program.init, run_key(CONFIG))
    shared = (state.step, state.updates, state.replay.cursor, state.replay.filled)
    assert [x.shape for x in shared] == [()] * 4
    assert state.agent.params["actor"]["Dense_0"]["bias"].shape[0] == 2
    assert AXES.replay.data == 0


def test_metrics_of_seeds_by_hand():
    assert summarise({"a": np.float32(2)}) == {"a": 2.0}
    nan = float("nan")
    found = summarise({"a": np.array([1.0, 3.0]), "b": np.array([nan, 4.0]), "c": np.array([nan, nan])})
    assert (found["a"], found["b"]) == (2.0, 4.0)
    assert np.isnan(found["c"])
    assert found["seeds"]["a"] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": 0}, "seeds must be at least 1, not 0"),
        ({"seed": 2**32 - 1}, "leaves no room for 2 seeds"),
    ],
)
def test_impossible_seeds_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        check(dataclasses.replace(CONFIG, **changes))
