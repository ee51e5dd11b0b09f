"""The runs of a suite: their order, going on, what is left alone — with a toy in the agent's place."""

import json
import os
import shutil
import signal

import pytest
from toy_run import StopAt, default_program, toy_config, toy_evaluate, toy_program

from mbrl.core.errors import UserError
from mbrl.runner import reproduce, rundir
from mbrl.runner.reporter import Silent
from mbrl.runner.stop import Interrupted
from mbrl.runner.suite import Task


def task(name, seeds=2):
    return Task(name, "toy", 1, 64, seeds, {"toy": {}}, (), None)


def jobs(root, seeds=None, **changes):
    config = toy_config(**changes)
    return reproduce.jobs(root, [(task("hill"), "toy", config), (task("a/b", 3), "toy (fast)", config)], seeds)


def prepare(_config, program=None):
    return program or default_program(), toy_evaluate, ""


def outcome(job, reporter=Silent, program=None):
    return reproduce.perform(job, reporter, lambda config: prepare(config, program))


def perform(*args, **options):
    """Return what is to be said of a run."""
    return outcome(*args, **options).note


def lines(job):
    """The metrics without the wall clock's figures."""
    rows = [json.loads(line) for line in job.run.metrics.read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def test_every_task_has_a_seed_before_any_has_two(tmp_path):
    found = jobs(tmp_path)
    assert [(job.task.name, job.config.seed) for job in found] == [
        ("hill", 0), ("a/b", 0), ("hill", 1), ("a/b", 1), ("a/b", 2)
    ]
    assert found[1].config.run_dir == str(tmp_path / "a-b/toy-fast/seed-0")
    assert len(jobs(tmp_path, seeds=1)) == 2


def test_what_is_done_is_not_run_again_and_what_was_stopped_goes_on(tmp_path):
    whole, stopped, *_ = jobs(tmp_path)
    assert reproduce.state_of(whole) == "open"
    assert perform(whole) == ""
    assert reproduce.state_of(whole) == "done"
    before = whole.run.metrics.read_bytes()
    with pytest.raises(Interrupted):
        perform(stopped, lambda: StopAt(24, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert reproduce.state_of(stopped) == "open"
    assert [perform(job) for job in (whole, stopped)] == ["", ""]
    assert whole.run.metrics.read_bytes() == before
    assert lines(stopped) == lines(whole)
    assert (stopped.run.path / "machine.txt").is_file()


def test_a_larger_budget_goes_on_and_a_smaller_one_is_there_already(tmp_path):
    short, long = jobs(tmp_path, steps=32)[0], jobs(tmp_path)[0]
    perform(short)
    assert reproduce.state_of(long) == "open"
    perform(long)
    assert lines(long)[-1]["step"] == 64
    assert reproduce.state_of(short) == "done"


def test_a_run_that_failed_is_kept(tmp_path):
    job = jobs(tmp_path)[0]
    assert "failed: stopped at env step 40" in perform(job, program=toy_program(faults_from=24))
    # The toy logs no counts of its faults; an agent's run does.
    with job.run.metrics.open("a") as file:
        file.write('{"step": 40, "fault/updates": 4}\n')
    assert reproduce.state_of(job) == "failed"
    assert perform(job) == ""
    assert lines(job)[-1]["step"] == 40


def test_what_another_process_holds_is_left_to_it(tmp_path):
    job = jobs(tmp_path)[0]
    job.run.path.mkdir(parents=True)
    with rundir.take(job.config):
        assert "is left to another process" in perform(job)
    perform(job)
    assert reproduce.state_of(job) == "done"


def test_what_was_killed_before_its_first_save_begins_anew(tmp_path):
    job, whole, *_ = jobs(tmp_path)

    class KilledError(Exception):
        """Nothing is saved any more."""

    def kill():
        raise KilledError

    with pytest.raises(KilledError):
        perform(job, lambda: StopAt(16, kill))
    assert job.run.metrics.is_file()
    assert not rundir.saved(job.run)
    assert [perform(one) for one in (job, whole)] == ["", ""]
    assert lines(job) == lines(whole)


def test_a_run_that_another_process_finished_meanwhile(tmp_path):
    job = jobs(tmp_path)[0]

    def slow(config):
        perform(job)
        return prepare(config)

    assert reproduce.perform(job, Silent, slow) == reproduce.Outcome()
    assert lines(job)[-1]["step"] == 64


def test_other_settings_and_other_things_are_refused_before_anything_runs(tmp_path):
    perform(jobs(tmp_path, steps=8)[0])
    reproduce.check_all(jobs(tmp_path))
    with pytest.raises(UserError, match=r"seed-0 holds a run with num_envs = 2, not 4; the suite has changed since"):
        reproduce.check_all(jobs(tmp_path, num_envs=4))
    with pytest.raises(UserError, match="toy on hill: epoch 7 must be a multiple"):
        reproduce.check_all(jobs(tmp_path, epoch=7))
    job = jobs(tmp_path)[1]
    job.run.path.mkdir(parents=True)
    (job.run.path / "letter.txt").write_text("dear")
    said = perform(job)
    assert said.startswith("toy (fast) on a/b, seed 0 failed: ")
    assert "is in the way of a run, but is none" in said
    assert [entry.name for entry in job.run.path.iterdir()] == ["letter.txt"]


def lose_saves(job):
    """Leave a run without the saves that it had."""
    perform(job)
    shutil.rmtree(job.run.checkpoints)


def spoil_saves(job):
    """Let no save's checksums hold."""
    perform(job)
    for file in job.run.checkpoints.glob("*/meta.json"):
        file.write_text("{}")


def empty_config(job):
    """Leave an empty file in the config's place."""
    perform(job)
    job.run.config.write_text("")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(lose_saves, "had a save and has none"), (spoil_saves, "no valid checkpoint in"), (empty_config, "yaml is empty")],
)
def test_a_run_that_cannot_be_done_is_named_and_counts_as_failed(spoil, reason, tmp_path):
    bad, good, *_ = found = jobs(tmp_path)
    spoil(bad)
    reproduce.check_all(found)
    failed, done = outcome(bad), outcome(good)
    assert failed.note.startswith("toy on hill, seed 0 failed: ")
    assert reason in failed.failure
    assert failed.note.endswith(failed.failure)
    assert done == reproduce.Outcome()
    (run,), notes = reproduce.runs_of(bad, failed)
    assert (reason in run.trouble, run.seed, run.path, notes) == (True, 0, bad.run.path, [])
    assert [run.trouble for run in reproduce.runs_of(good, done)[0]] == [""]
    assert reproduce.runs_of(found[2], done) == ([], [])


def test_a_run_whose_agent_cannot_do_the_task_leaves_no_folder_and_is_counted(tmp_path):
    def refuse(_config):
        raise UserError("toy takes continuous actions")

    job = jobs(tmp_path)[0]
    said = reproduce.perform(job, Silent, refuse)
    assert said.note == "toy on hill, seed 0 failed: toy takes continuous actions"
    assert not job.run.path.exists()
    (run,), _ = reproduce.runs_of(job, said)
    assert (run.trouble, run.steps.size, run.settings["num_envs"]) == ("toy takes continuous actions", 0, 2)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((("hill", "toy +context"), ("hill", "toy -context")), "'toy +context' on 'hill' and 'toy -context' on 'hill'"),
        ((("a/b", "toy"), ("a-b", "toy")), "'toy' on 'a/b' and 'toy' on 'a-b' would both be run in .*a-b/toy/seed-0;"),
    ],
)
def test_two_names_never_share_a_folder(names, sentence, tmp_path):
    """What one of them scored would be told of the other."""
    configs = [(task(name), label, toy_config()) for name, label in names]
    with pytest.raises(UserError, match=sentence.replace("+", r"\+")):
        reproduce.jobs(tmp_path, configs, None)
    assert len(reproduce.jobs(tmp_path, configs[:1], None)) == 2
