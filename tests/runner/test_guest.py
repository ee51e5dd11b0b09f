"""Runs of agents that bring their own training loop — with a loop of three tellings in Brax's place."""

import dataclasses
import gc
import json
import os
import signal

import jax
import jax.numpy as jnp
import pytest

from mbrl.agents import AGENTS, Guest, GuestEntry
from mbrl.agents.base import ActOutput, Training
from mbrl.cli.main import main
from mbrl.core import heap
from mbrl.core.errors import UserError
from mbrl.envs import ENVS, EnvConfig, HostEnv, make_vector, to_dm_env
from mbrl.envs import make as make_env
from mbrl.evaluation.rollout import make_evaluate
from mbrl.runner import compare, reproduce, restore, yaml_file
from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.config import CheckpointConfig, Config, EvalConfig
from mbrl.runner.loggers import read_metrics
from mbrl.runner.measures import evaluation_key
from mbrl.runner.report import make_report
from mbrl.runner.reporter import Silent
from mbrl.runner.rundir import RunDir
from mbrl.runner.stop import Interrupted, RunFailedError
from mbrl.runner.suite import Task
from mbrl.runner.train import train


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """The loop's config."""

    name: str = "loop"
    """The agent."""
    broken: int = -1
    """The telling whose policy is not finite."""
    signal: int = -1
    """The telling before which the process is told to end."""


def make(config, observation_spec, action_spec):
    """Return a guest whose policy follows the sign that is seen, by as much as its one number says."""
    del observation_spec, action_spec

    def act(state, key, carry, timestep, mode):
        del key, mode
        return ActOutput(state["w"] * timestep.observation[:, :1], carry, ())

    def prepare(env, course):
        assert env.action_spec.shape == (1,)
        told = range(course.every, course.steps + 1, course.every)

        def run(tell):
            for number, _ in enumerate(told):
                if number == config.signal:
                    os.kill(os.getpid(), signal.SIGTERM)
                tell({"w": jnp.float32("nan" if number == config.broken else (number + 1) / 10)}, {"loss": 0.5})

        return Training(told, run)

    return Guest(lambda _: {"w": jnp.float32(0)}, lambda n: jnp.zeros(n), act, prepare)


@pytest.fixture(autouse=True)
def _loop(monkeypatch):
    monkeypatch.setitem(AGENTS, "loop", GuestEntry(LoopConfig, make))


def config(folder, **changes):
    made = Config(
        agent=LoopConfig(),
        env=EnvConfig("probe/action"),
        steps=300,
        num_envs=2,
        evaluation=EvalConfig(every=100, episodes=4),
        checkpoint=CheckpointConfig(every=200),
        run_dir=str(folder),
    )
    return dataclasses.replace(made, **changes)


def test_it_is_evaluated_logged_and_saved(tmp_path):
    made = config(tmp_path / "run")
    result = train(made)
    rows = read_metrics(RunDir(result.run_dir))
    assert [row["step"] for row in rows] == [100, 200, 300]
    assert [row["eval/return_mean"] for row in rows] == pytest.approx([1, 2, 3])
    also = {"train/loss", "eval/return_std", "eval/length_mean", "eval/terminated", "time/epoch", "time/left"}
    assert also <= set(rows[0])
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["000000000200", "000000000300"]
    assert result.metrics["eval/return_mean"] == pytest.approx(3)
    # The evaluation is the runner's own, with the seeds it would take for any agent.
    evaluate = make_evaluate(result.program.agent, make_vector(made.env, 4), 4)
    assert float(evaluate(result.state.agent, evaluation_key(0, 300)).returns.mean()) == rows[-1]["eval/return_mean"]


def test_a_guest_too_may_train_on_shorter_episodes_than_it_is_judged_by(tmp_path, monkeypatch):
    seen = []

    def watched(*specs):
        guest = make(*specs)
        prepare = lambda env, course: seen.append((env.env.limit, course.time_limit)) or guest.prepare(env, course)
        return guest._replace(prepare=prepare)

    monkeypatch.setitem(AGENTS, "loop", GuestEntry(LoopConfig, watched))
    result = train(config(tmp_path / "run", env=EnvConfig("probe/action"), episode_limit=4))
    assert set(seen) == {(4, 4)}
    assert read_metrics(RunDir(result.run_dir))[-1]["eval/length_mean"] == 10


def test_a_guest_learns_with_cycles_looked_for(tmp_path):
    looked = []

    class Looks(Silent):
        def metrics(self, *_):
            looked.append(gc.isenabled())

    with heap.cycles_kept():
        train(config(tmp_path / "run"), reporter=Looks())
    assert looked
    assert all(looked)


def test_a_full_disk_costs_it_a_save_and_not_the_run(tmp_path, monkeypatch):
    saved, told = Checkpoints.save, []

    def full(self, state, step, **rest):
        if step == 200:
            raise UserError("step 200 could not be saved")
        return saved(self, state, step, **rest)

    class Notes(Silent):
        def note(self, line):
            told.append(line)

    monkeypatch.setattr(Checkpoints, "save", full)
    train(config(tmp_path / "run"), reporter=Notes())
    assert told[-1] == "warning: step 200 could not be saved; training goes on and tries again"
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["000000000300"]


def test_its_folder_is_a_run_like_any_other(tmp_path, capsys):
    made = config(tmp_path / "run")
    result = train(made)
    loaded = restore.load(result.run_dir, made)
    assert int(loaded.state.step) == 300
    assert restore.evaluate(loaded).returns.tolist() == restore.evaluate(result).returns.tolist()
    assert main(["eval", str(result.run_dir), "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "episodes": 3, "return_mean": pytest.approx(3), "return_std": pytest.approx(0, abs=1e-4), "length_mean": 10.0,
    }
    assert main(["compare", str(result.run_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["agent"] == "loop"
    page = make_report(result.run_dir, made, result.program, result.state).read_text(encoding="utf-8")
    assert "loop has none: no prediction, dream, calibration or imagined return" in page
    assert "Learning" in page
    assert "Open-loop" not in page
    assert "Skipped updates" not in page
    assert {"training.png", "learning_curve.png", "evaluation.png"} <= {path.name for path in result.run_dir.iterdir()}


def test_a_signal_saves_the_newest_policy_and_the_run_cannot_go_on(tmp_path, capsys):
    made = config(tmp_path / "run", agent=LoopConfig(signal=0))
    with pytest.raises(Interrupted, match=r"at env step 100; saved in .*run; its policy can be played, but"):
        train(made)
    assert restore.load(tmp_path / "run", made).state.agent["w"] == pytest.approx(0.1)
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert main(["train", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mbrl: a run of loop cannot go on: ")
    assert said.count("\n") == 1
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_in_a_suite_a_run_that_was_stopped_begins_anew(tmp_path):
    task = Task("hill", "probe/action", 1, 300, 1, {}, (), None)
    stopped, whole = (
        reproduce.Job(task, "loop", config(tmp_path / "run", agent=LoopConfig(signal=number))) for number in (0, 2)
    )
    reproduce.check_all([stopped])
    with pytest.raises(Interrupted):
        reproduce.perform(stopped, Silent)
    assert reproduce.state_of(stopped) == "open"
    assert reproduce.perform(whole, Silent) == reproduce.Outcome()
    assert reproduce.state_of(whole) == "done"
    assert [row["step"] for row in read_metrics(whole.run)] == [100, 200, 300]
    before = whole.run.metrics.read_bytes()
    assert reproduce.perform(whole, Silent) == reproduce.Outcome()
    assert whole.run.metrics.read_bytes() == before


@pytest.mark.parametrize("broken", [0, 1])
def test_in_a_suite_a_policy_that_is_not_finite_has_failed_and_is_not_trained_again(broken, tmp_path):
    task = Task("hill", "probe/action", 1, 300, 1, {}, (), None)
    made = config(tmp_path / "run", agent=LoopConfig(broken=broken), checkpoint=CheckpointConfig(every=100))
    job = reproduce.Job(task, "loop", made)
    assert "the policy of loop is not finite" in reproduce.perform(job, Silent).failure
    assert reproduce.state_of(job) == "failed"
    before = job.run.metrics.read_bytes()
    assert reproduce.perform(job, Silent) == reproduce.Outcome()
    assert job.run.metrics.read_bytes() == before
    (run,) = compare.read(job.run, dict(yaml_file.read(job.run.config)))[0]
    assert run.trouble == f"stopped by faults at {100 * (broken + 1)} of 300 env steps"
    assert run.returns.tolist() == pytest.approx([1.0] * broken)
    last = read_metrics(job.run)[-1]
    assert (last["step"], last["fault/policy"], last["train/loss"]) == (100 * (broken + 1), 1, 0.5)


def test_a_signal_before_the_last_telling_changes_nothing(tmp_path):
    assert int(train(config(tmp_path / "run", agent=LoopConfig(signal=2))).state.step) == 300


def test_a_policy_that_is_not_finite_ends_the_run(tmp_path):
    made = config(tmp_path / "run", agent=LoopConfig(broken=2))
    said = r"at env step 300: the policy of loop is not finite .* saved before are in"
    with pytest.raises(RunFailedError, match=said):
        train(made)
    assert int(restore.load(tmp_path / "run", made).state.step) == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 2}, "seeds must be 1, not 2: loop brings its own training loop"),
        ({"devices": "all"}, "devices must be 1, not all"),
        ({"train_ratio": 3.0}, "train_ratio has no part in the training of loop, .* but is 3.0; leave it out"),
        ({"prefill": 5}, "prefill has no part"),
        ({"epoch": 5}, "epoch has no part"),
        ({"max_faults": 5}, "max_faults has no part"),
        ({"replay": dataclasses.replace(Config(None).replay, capacity=77)}, r"replay\.capacity has no part"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"seed": -1}, "seed must lie between"),
        ({"evaluation": EvalConfig(every=0)}, r"evaluation\.every must be at least 1"),
        ({"env": EnvConfig("test/host")}, "'test/host' runs in Python, call by call, which loop cannot train in"),
    ],
)
def test_what_has_no_part_is_refused_and_nothing_is_written(changes, message, tmp_path, monkeypatch):
    host = lambda seed: to_dm_env(make_env(EnvConfig("probe/action")), seed)
    monkeypatch.setitem(ENVS, "test/host", HostEnv(host))
    with pytest.raises(UserError, match=message) as caught:
        train(config(tmp_path / "run", **changes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_state_has_the_shape_it_is_saved_in(tmp_path):
    made = config(tmp_path / "run")
    result = train(made)
    template = jax.eval_shape(result.program.init, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), template) == jax.tree.map(
        lambda x: (x.shape, x.dtype), result.state
    )
