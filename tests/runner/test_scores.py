"""What runs scored beside published scores, worked by hand."""

import numpy as np
import pytest
from toy_folders import log_faults, write_run

from mbrl.runner import compare, machine
from mbrl.runner.reproduce_report import COLUMNS, cells, listed, shown
from mbrl.runner.rundir import RunDir
from mbrl.runner.scores import judged
from mbrl.runner.suite import Reference, Task

HILL = Task("hill", "toy/hill", 1, 30, 3, {"dreamer": {}}, (), None)
SETTINGS = {"agent.name": "dreamer", "epoch": 1, "env.action_repeat": 1}


def theirs(score, at, agent="theirs"):
    return Reference(agent, float(score), at, "a paper, table 1", "mean of 3 seeds")


def read(tmp_path, *scores, epoch=10, **changes):
    """Runs of seeds 0, 1, ..., evaluated every 10 env steps."""
    runs = []
    for seed, own in enumerate(scores):
        path = write_run(tmp_path / str(seed), seed=seed, scores=own, **changes)
        settings = {"env.name": "toy/hill", "agent.name": "dreamer", "seed": seed, "max_faults": 100, "epoch": epoch,
                    "env.action_repeat": 1, "steps": changes.get("steps", 10 * len(own))}
        runs += compare.read(RunDir(path), settings)[0]
    return runs


def row_of(runs, *references, bar=None, seeds=None, budget=30):
    task = HILL._replace(references=references, bar=None if bar is None else float(bar))
    return judged(task, "dreamer", runs, len(runs) if seeds is None else seeds, budget)


def test_ours_theirs_and_the_difference(tmp_path):
    runs = read(tmp_path, (1, 2, 3), (1, 4, 5), (1, 6, 13))
    row = row_of(runs, theirs(10, 30), theirs(5, 20), theirs(7, 40), theirs(1, None, "random"), bar=6)
    # Of 3, 5 and 13 the middle half weighs 1/4, 1 and 1/4, over 3/2: (0.75 + 5 + 3.25) / 1.5.
    assert row.ours.estimate.value == pytest.approx(6)
    assert row.ours.steps == (30,)
    assert [one.difference for one in row.against] == pytest.approx([-4, -1, None, 5])
    assert [one.ours and one.ours.steps for one in row.against] == [(30,), (20,), None, (30,)]
    assert row.passed
    assert row_of(runs, bar=6.01).passed is False
    assert (row.failed, row.open) == (0, 0)


def test_scores_of_other_env_steps_are_never_subtracted(tmp_path):
    row = row_of(read(tmp_path, (1, 2), (1, 4)), theirs(10, 30), bar=1, budget=20)
    assert row.ours.steps == (20,)
    assert row.against[0].difference is None
    assert row.passed is None
    (line,) = cells([row])
    told = dict(zip(COLUMNS, line, strict=True))
    assert (told["env steps"], told["at env steps"], told["difference"]) == ("20", "30", "env steps differ")
    assert told["bar"] == "1.00: not judged: it is for 30 env steps"


@pytest.mark.parametrize(("at", "difference"), [(11, 1), (20, 1), (10, 2), (21, 0), (31, None)])
def test_an_evaluation_less_than_an_epoch_later_counts(tmp_path, at, difference):
    """Those at 10, 20 and 30 are 3, 2 and 1 above."""
    row = row_of(read(tmp_path, (3, 2, 1)), theirs(1, at))
    assert row.against[0].difference == difference


def test_a_guest_evaluated_often_scores_the_first_evaluation_at_its_budget(tmp_path):
    """Those up to a twentieth later would do as well, but the first one counts, for its row as for its references."""
    path = write_run(tmp_path / "a", agent="sac", scores=[float(score) for score in range(1, 201)])
    settings = SETTINGS | {"env.name": "toy/hill", "agent.name": "sac", "seed": 0, "max_faults": 100, "steps": 2000}
    row = row_of(compare.read(RunDir(path), settings)[0], theirs(1, 1000), budget=1000)
    assert row.ours.steps == row.against[0].ours.steps == (1000,)
    assert row.ours.scores == (100,)


def test_a_run_that_failed_is_kept_with_its_latest_evaluation(tmp_path):
    whole, faulty = read(tmp_path, (1, 2, 3)), write_run(tmp_path / "faulty", seed=1, scores=(1, 0), steps=30)
    log_faults(faulty, 101)
    failed, _ = compare.read(RunDir(faulty), dict(whole[0].settings) | {"seed": 1, "steps": 30})
    row = row_of([*whole, *failed], theirs(1, 30), theirs(1, 10, "earlier"), bar=1)
    assert row.ours.scores == (3, 0)
    assert [one.ours.scores for one in row.against] == [(3, 0), (1, 1)]
    assert (row.failed, row.open, row.passed) == (1, 0, True)
    assert cells([row])[0][-1] == "1 of 2 failed"


# The env steps of a guest's evaluations, a budget, and where its runs end.
TOLD = {
    "ppo": (range(5120, 102_401, 5120), 100_000, 102_400),
    "sac, which collects 1,000 first": (range(6000, 51_001, 5000), 50_000, 51_000),
}


def guests(tmp_path, told, budget, seeds=2, unroll=10):
    """Runs of seeds 0, 1, ... that score a thousandth of the env steps and their seed."""
    runs = []
    for seed in range(seeds):
        run = RunDir(write_run(tmp_path / str(seed), agent="ppo", seed=seed, steps=budget))
        run.metrics.write_text("".join(f'{{"step": {n}, "eval/return_mean": {n / 1000 + seed}}}\n' for n in told))
        settings = {"env.name": "toy/hill", "agent.name": "ppo", "seed": seed, "max_faults": 100, "epoch": 1000,
                    "env.action_repeat": 1, "num_envs": 512, "steps": budget, "agent.unroll_length": unroll}
        runs += compare.read(run, settings)[0]
    return runs


@pytest.mark.parametrize(("told", "budget", "end"), TOLD.values(), ids=list(TOLD))
def test_a_guest_scores_its_evaluation_at_the_budget_or_the_next_one(told, budget, end, tmp_path):
    """The runner's epoch has no part in a guest's training."""
    task = HILL._replace(steps=budget, seeds=2, bar=end / 1000, references=(theirs(1, budget),))
    row = judged(task, "ppo", guests(tmp_path, told, budget), 2, budget)
    assert row.ours is not None
    assert row.ours.steps == (end,)
    assert row.against[0].ours == row.ours
    assert (row.open, row.passed) == (0, True)
    line = dict(zip(COLUMNS, cells([row])[0], strict=True))
    assert (line["env steps"], line["bar"].partition(": ")[2]) == (f"{end:,}", "pass")


# Env steps asked for and the first evaluation there is, of iterations of 5,120 env steps; whether it counts for them.
LATE = {"within an iteration": (50_000, 55_119, True), "an iteration late": (50_000, 55_120, False),
        "within 5 %": (200_000, 210_000, True), "more than 5 % late": (200_000, 210_001, False),
        "twice the budget": (50_000, 102_400, False)}


@pytest.mark.parametrize(("budget", "end", "counts"), LATE.values(), ids=list(LATE))
def test_a_guest_that_was_trained_for_longer_is_not_held_against_a_budget(budget, end, counts, tmp_path):
    task = HILL._replace(steps=budget, seeds=2, bar=1.0, references=(theirs(1, budget), theirs(1, None, "optimum")))
    row = judged(task, "ppo", guests(tmp_path, (end,), budget), 2, budget)
    assert row.ours.steps == (end,)
    assert row.passed is (True if counts else None)
    assert [one.difference is None for one in row.against] == [not counts, False]
    line = dict(zip(COLUMNS, cells([row])[0], strict=True))
    assert (line["env steps"], line["at env steps"]) == (f"{end:,}", f"{budget:,}")
    assert (line["difference"] == "env steps differ") is not counts
    assert line["bar"] == ("1.00: pass" if counts else f"1.00: not judged: it is for {budget:,} env steps")


def test_a_guest_that_failed_at_its_last_step_stands_with_the_latest_it_had(tmp_path):
    (run,) = guests(tmp_path, (100, 200), 300, seeds=1)
    with RunDir(run.path).metrics.open("a") as file:
        file.write('{"step": 300, "fault/policy": 1.0}\n')
    (run,) = compare.read(RunDir(run.path), dict(run.settings))[0]
    row = judged(HILL._replace(steps=300, seeds=1, bar=1.0, references=(theirs(1, 300),)), "ppo", [run], 1, 300)
    assert (row.failed, row.open, row.passed, row.against[0].ours.steps) == (1, 0, False, (200,))


def test_a_guest_is_not_judged_where_it_was_not_evaluated(tmp_path):
    runs = guests(tmp_path, range(5120, 51_201, 5120), 100_000)
    task = HILL._replace(steps=100_000, seeds=2, bar=1.0, references=(theirs(1, 51_200), theirs(1, 51_201)))
    row = judged(task, "ppo", runs, 2, 100_000)
    assert (row.open, row.passed) == (2, None)
    assert [one.ours and one.ours.steps for one in row.against] == [(51_200,), None]


def test_a_guests_evaluation_without_a_number_is_not_passed_over_for_the_next(tmp_path):
    (run,) = guests(tmp_path, (1024, 2048, 3072), 3072, seeds=1, unroll=2)
    metrics = RunDir(run.path).metrics
    metrics.write_text(metrics.read_text().replace("2.048}", "null}"))
    (run,) = compare.read(RunDir(run.path), dict(run.settings))[0]
    assert run.steps.tolist() == [1024, 3072]
    row = judged(HILL._replace(references=(theirs(1, 1500), theirs(1, 2500))), "ppo", [run], 1, 3072)
    assert [one.ours and one.ours.steps for one in row.against] == [None, (3072,)]


def test_runs_that_are_missing_or_not_at_their_end_are_said(tmp_path):
    runs = read(tmp_path, (1, 2), steps=30)
    row = row_of(runs, theirs(1, 30), bar=1, seeds=3)
    assert (row.open, row.passed, row.against[0].difference) == (3, None, None)
    line = dict(zip(COLUMNS, cells([row])[0], strict=True))
    assert (line["seeds"], line["bar"]) == ("1 of 3", "1.00: not judged, seeds are missing")
    assert line[""] == "one seed: no interval; 3 of 3 not at the end"
    nothing = row_of([], theirs(1, 30), seeds=2)
    assert nothing.ours is None
    assert cells([nothing])[0][2:5] == ("0 of 2", "-", "-")


def test_of_each_method_the_comparable_scores_are_shown_or_the_nearest(tmp_path):
    row = row_of(read(tmp_path, (1, 2, 3)), theirs(1, 10), theirs(2, 30), theirs(3, 90), theirs(4, 80, "b"),
                 theirs(5, 50, "b"))
    assert [one.reference.score for one in shown(row)] == [1, 2, 5]
    assert listed([row]) == ["mean of 3 seeds; a paper, table 1"]
    assert [line[6] for line in cells([row])] == ["theirs [1]", "theirs [1]", "b [1]"]
    unreferenced = row_of(read(tmp_path / "b", (1, 2, 3)))
    assert cells([unreferenced])[0][5:9] == ("-", "none published", "-", "-")


def test_seconds_and_machines(tmp_path):
    run = RunDir(write_run(tmp_path / "run", scores=(1, 2)))
    run.metrics.write_text('{"step": 10, "time/epoch": 1.5}\n{"step": 20, "time/epoch": 2.0}\n')
    (run.path / "machine.txt").write_text("an abacus\n")
    machine.note(run)
    machine.note(run)
    assert machine.machines(run) == ["an abacus", machine.describe()]
    found = compare.Run(run.path, 0, SETTINGS, np.array([20]), np.array([1.0]), 20, "", "")
    row = row_of([found], budget=20)
    assert row.seconds == 3.5
    assert row.machines == ("an abacus", machine.describe())
