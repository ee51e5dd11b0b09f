"""Run folders compared: what counts as one agent, what a run scored, and what is told of runs that are not whole."""

import json

import numpy as np
import pytest
from toy_folders import log_faults, write_run

from mbrl.core.errors import UserError
from mbrl.runner import compare, compare_report, rundir, yaml_file
from mbrl.runner.labels import agent_labels, task_labels


@pytest.fixture
def write(tmp_path):
    """Write a run's folder and return its runs; what is said of the reading is kept in `notes`."""

    def written(name, *args, edit=None, **kwargs):
        path = write_run(tmp_path / name, *args, **kwargs)
        if edit is not None:
            edit(path)
        begun = rundir.begun(path)
        runs, notes = compare.read(begun, dict(yaml_file.read(begun.config)))
        written.notes += notes
        return runs

    written.notes = []
    return written


def labels(runs):
    settings = [run.settings for run in runs]
    return list(zip(task_labels(settings), [label for label, _ in agent_labels(settings)], strict=True))


def scores(comparison):
    return {(row.task, row.agent): row.scores.tolist() for row in comparison.rows}


def test_each_seed_of_a_folder_is_a_run(write):
    runs = write("a", seed=3, seeds=2, scores=[(1.0, 5.0), (2.0, 7.0)])
    assert [run.seed for run in runs] == [3, 4]
    assert [run.returns.tolist() for run in runs] == [[1, 2], [5, 7]]
    assert [run.steps.tolist() for run in runs] == [[10, 20]] * 2
    assert scores(compare.compare([*runs, *write("b", seed=9, scores=[0.0, 3.0])])) == {
        ("toy/hill", "dreamer"): [2, 7, 3]
    }


def test_agents_are_told_apart_by_what_differs_between_them_on_a_task(write):
    runs = [
        *write("a", env="x", scores=[1.0]),
        *write("b", env="x", scores=[1.0], **{"agent.size": "nano"}),
        *write("c", env="x", scores=[1.0], seed=5, seeds=1, **{"evaluation.every": 5, "checkpoint.every": 2}),
        *write("d", env="x", scores=[1.0], agent="planner", **{"agent.optim.rate": 1e-3}),
        # How the agent is set up for another task does not make it another agent.
        *write("e", env="y", scores=[1.0], **{"agent.optim.rate": 1e-3, "agent.size": "nano"}),
    ]
    large, nano = "dreamer (size=1m)", "dreamer (size=nano)"
    assert labels(runs) == [("x", large), ("x", nano), ("x", large), ("x", "planner"), ("y", nano)]
    assert agent_labels([run.settings for run in runs])[1][1] == {"agent.size": "nano"}


def test_what_else_differs_is_named_as_shortly_as_it_can_be(write):
    both = {"agent.behaviour": {"rate": 1, "layers": None}}, {"agent.behaviour": {"rate": 2, "layers": 3}}
    runs = [*write("a", scores=[1.0], **both[0], **{"agent.optim.rate": 1e-3}), *write("b", scores=[1.0], **both[1])]
    assert [label for _, label in labels(runs)] == [
        "dreamer (layers=null, behaviour.rate=1, optim.rate=0.001)",
        "dreamer (layers=3, behaviour.rate=2, optim.rate=0.0001)",
    ]


def test_a_setting_that_one_config_lacks_is_unset(write):
    runs = [*write("a", scores=[1.0]), *write("b", scores=[1.0], **{"agent.remat": True})]
    assert [label for _, label in labels(runs)] == ["dreamer (remat=unset)", "dreamer (remat=true)"]


def test_settings_of_a_planner_are_told_among_runs_that_have_it(write):
    mppi, cem = {"name": "mppi", "samples": 512, "elites": 64}, {"name": "cem", "samples": 256}
    runs = [
        *write("a", scores=[1.0], **{"agent.planner": mppi}),
        *write("b", scores=[1.0], **{"agent.planner": cem}),
    ]
    assert [label for _, label in labels(runs)] == ["dreamer (planner=mppi)", "dreamer (planner=cem)"]
    runs += write("c", scores=[1.0], **{"agent.planner": mppi | {"elites": 32}})
    assert [label for _, label in labels(runs)] == [
        "dreamer (elites=64, planner=mppi)", "dreamer (elites=unset, planner=cem)", "dreamer (elites=32, planner=mppi)",
    ]


def test_a_run_from_before_there_was_a_setting_is_of_the_agent_that_leaves_it_as_it_was(write):
    key, runs = "agent.behaviour.whiten", write("old", agent="mbpo", scores=[1.0])
    runs = [*runs, *write("off", agent="mbpo", seed=1, scores=[2.0], **{key: False})]
    assert [label for _, label in labels(runs)] == ["mbpo", "mbpo"]
    runs += write("on", agent="mbpo", scores=[3.0], **{key: True})
    assert [label for _, label in labels(runs)] == ["mbpo (whiten=false)"] * 2 + ["mbpo (whiten=true)"]


def test_another_environment_setting_is_another_task(write):
    runs = [*write("a", scores=[1.0]), *write("b", scores=[1.0], **{"env.time_limit": 50})]
    assert labels(runs) == [("toy/hill (time_limit=1000)", "dreamer"), ("toy/hill (time_limit=50)", "dreamer")]


def test_different_budgets_are_compared_at_the_smallest(write):
    runs = [*write("a", scores=[1.0, 2.0]), *write("b", scores=[3.0, 4.0, 5.0, 6.0], seed=1)]
    found = compare.compare(runs)
    assert scores(found) == {("toy/hill", "dreamer"): [2, 4]}
    (note,) = found.notes
    assert "toy/hill have budgets of 20 and 40 env steps; scores are taken at 20, the largest" in note
    assert not any(one.trouble for one in found.rows[0].runs)


def test_a_run_that_stopped_beyond_what_is_compared_is_whole(write):
    runs = [*write("a", scores=[1.0, 2.0]), *write("b", scores=[3.0, 4.0, 5.0], steps=90, seed=1)]
    assert compare_report.failures(compare.compare(runs)) == []


def test_a_run_that_is_not_evaluated_so_early_has_no_score_but_did_not_fail(write):
    runs = [*write("a", scores=[1.0], steps=5), *write("b", scores=[None, 3.0], seed=1)]
    found = compare.compare(runs)
    assert scores(found) == {("toy/hill", "dreamer"): [1]}
    assert compare_report.remark(found.rows[0]) == "one seed: no interval; 1 of 2 without evaluation"
    (line,) = compare_report.failures(found)
    assert line.startswith("no score: ")
    assert line.endswith("b, seed 1: no evaluation up to 10 env steps")


def test_the_last_epoch_goes_beyond_the_budget(write):
    # A budget of 15 ends at 20, where 25 is not over yet.
    runs = [*write("a", scores=[1.0, 2.0], steps=15), *write("b", scores=[3.0, 4.0, 5.0], steps=25, seed=1)]
    assert scores(compare.compare(runs)) == {("toy/hill", "dreamer"): [2, 4]}


@pytest.mark.parametrize(("epoch", "told"), [(10, True), (20, True), (21, False)])
def test_scores_of_other_env_steps_are_told(write, epoch, told):
    """A budget of 15 ends at 40, an epoch of 20 after the other agent; in epochs of 21 no run can help it."""
    runs = [*write("a", scores=[1.0, 2.0], steps=15),
            *write("b", agent="planner", scores=[1.0, 2.0, 3.0, 4.0], steps=15, epoch=epoch),
            *write("c", agent="short", scores=[1.0], steps=15)]
    notes = compare.compare(runs).notes
    said = "the scores on toy/hill are not of the same env steps: dreamer was scored at 20 and planner at 40"
    assert notes == ((said,) if told else ())


def test_failed_runs_are_kept_and_marked(write, tmp_path):
    runs = [
        *write("whole", scores=[1.0, 2.0, 3.0]),
        *write("faulty", scores=[5.0], steps=30, seed=1, edit=lambda path: log_faults(path, 101)),
        *write("short", scores=[6.0, 7.0], steps=30, seed=2),
        *write("lost", scores=[8.0, None, None], seed=3),
        *write("nothing", scores=[None] * 3, seed=4),
        *write("empty", steps=30, seed=5),
        *write("gone", steps=30, seed=6, edit=lambda path: (path / "metrics.jsonl").unlink()),
    ]
    found = compare.compare(runs)
    assert scores(found) == {("toy/hill", "dreamer"): [3, 5, 7, 8]}
    assert compare_report.remark(found.rows[0]) == "6 of 7 failed; 3 of 7 without evaluation"
    assert [line.removeprefix(f"failed: {tmp_path}/") for line in compare_report.failures(found)] == [
        "faulty, seed 1: stopped by faults at 10 of 30 env steps; counted with 5.00, its return at 10",
        "short, seed 2: ends at 20 of 30 env steps; counted with 7.00, its return at 20",
        "lost, seed 3: its latest evaluation is not finite; counted with 8.00, its return at 10",
        "nothing, seed 4: its latest evaluation is not finite; no evaluation up to 30 env steps",
        "empty, seed 5: ends at 0 of 30 env steps; no evaluation up to 30 env steps",
        "gone, seed 6: ends at 0 of 30 env steps; no evaluation up to 30 env steps",
    ]


def test_faults_of_all_seeds_count_together(write):
    def spoil(path):
        (line,) = (path / "metrics.jsonl").read_text().splitlines()
        values = json.loads(line)
        values["seeds"]["fault/updates"] = [60.0, 50.0]
        (path / "metrics.jsonl").write_text(json.dumps(values))

    runs = write("a", seeds=2, scores=[(1.0, 2.0)], edit=spoil)
    assert [run.trouble for run in runs] == ["stopped by faults at 10 of 10 env steps"] * 2


def test_a_torn_line_is_told_and_the_rest_is_used(write):
    def tear(path):
        metrics = path / "metrics.jsonl"
        metrics.write_bytes(metrics.read_bytes()[:-9])

    (run,) = write("a", scores=[1.0, 2.0, 3.0], edit=tear)
    assert run.returns.tolist() == [1, 2]
    assert run.short == "ends at 20 of 30 env steps"
    (note,) = write.notes
    assert "a/metrics.jsonl is cut short in line 3; the other 2 lines are used" in note


@pytest.mark.parametrize(
    "line",
    ['{"step": 10, "eval/return_mean": "x"}', '{"step": 10, "eval/return_mean": true, "seeds": 3}', "[1]", "\x00\xff",
     '{"step": 10, "eval/return_mean": NaN, "fault/updates": "many", "seeds": {"fault/updates": 3}}', '{"step": "10"}',
     '{"step": true, "eval/return_mean": 1}', '{"step": 9223372036854775808, "eval/return_mean": 1}',
     '{"step": 10, "eval/return_mean": 1e308, "seeds": {"eval/return_mean": [-1e308, 1e39]}}',
     f'{{"step": 10, "eval/return_mean": {10**400}, "fault/updates": 1e308, "fault/physics": 1e308}}'],
)
def test_odd_lines_do_no_harm(write, line):
    runs = write("a", scores=[1.0], edit=lambda path: (path / "metrics.jsonl").write_text(f"{line}\n"))
    runs += write("b", scores=[(1.0, 2.0)], seeds=2, edit=lambda path: (path / "metrics.jsonl").write_text(line))
    assert [run.returns.size for run in runs] == [0, 0, 0]
    with pytest.raises(UserError, match=r"none of the runs was evaluated: .*metrics.jsonl of .*a, .*b"):
        compare.compare(runs)


def test_a_config_that_is_none(write):
    with pytest.raises(UserError, match="steps is 'many', but the config of a run has a whole number there"):
        write("a", scores=[1.0], steps="many")
    with pytest.raises(UserError, match=r"env.name is missing, but the config of a run has text there"):
        write("b", scores=[1.0], env={"other": 1})


def test_the_same_seed_twice_is_told(write):
    found = compare.compare([*write("a", scores=[1.0]), *write("b", scores=[2.0]), *write("c", "y", scores=[2.0])])
    (note,) = found.notes
    assert "a and" in note
    assert "b are both seed 0 of dreamer on toy/hill" in note


def test_scores_are_normalised_by_their_range_or_by_a_reference(write):
    runs = [*write("a", scores=[1.0]), *write("b", scores=[5.0], seed=1), *write("c", "y", scores=[2.0])]
    assert compare.compare(runs).scale == {"toy/hill": (1, 5, False), "y": (2, 2, False)}
    found = compare.compare(runs, {"toy/hill": (0.0, 10.0)})
    assert found.scale == {"toy/hill": (0, 10, True), "y": (2, 2, False)}
    assert found.notes == ("the scale says nothing of y; its smallest and largest score are taken as 0 and 1",)


def test_profiles_and_pairs_are_over_shared_tasks(write):
    runs = []
    for env, top in {"x": 1.0, "y": 10.0}.items():
        for seed in range(2):
            runs += write(f"{env}{seed}", env, seed=seed, scores=[top + seed])
            runs += write(f"{env}{seed}p", env, "planner", seed=seed, scores=[2 * top + seed])
    runs += write("z", "z", "planner", scores=[3.0])
    found = compare.compare(runs)
    (pair,) = found.pairs
    assert pair[:3] == ("planner", "dreamer", ("x", "y"))
    # On x 2 and 3 meet 1 and 2: three wins and a tie of four; on y all are won.
    np.testing.assert_allclose(pair.estimate.value, (3.5 / 4 + 1) / 2)
    assert found.overall.tasks == ("x", "y")
    profile = found.overall.profiles["dreamer"]
    np.testing.assert_allclose(profile.value[[0, -1]], [0.5, 0])  # the best run of each task is above 0
    assert (profile.low <= profile.value).all()
    assert (profile.value <= profile.high).all()


def test_nothing_is_aggregated_of_one_agent_on_one_task_or_of_tasks_apart(write):
    assert compare.compare(write("a", scores=[1.0]))[2:4] == (None, ())
    runs = [*write("b", scores=[1.0]), *write("c", "y", "planner", scores=[1.0])]
    assert compare.compare(runs)[2:4] == (None, ())


def test_the_page_tells_all_of_it(write):
    runs = [*write("a", seeds=3, scores=[(1.0, 2.0, 3.0), (2.0, 3.0, 4.0)]), *write("b", agent="x", scores=[1.0, 5.0]),
            *write("c", "y", agent="x", scores=[1.0, 2.0], steps=50), *write("d", "y", scores=[None], steps=50)]
    page = compare_report.page(compare.compare(runs))
    for said in ("Learning curves", "Performance profiles", "Probability of improvement", "one seed: no interval",
                 "ends at 20 of 50 env steps", "smallest and largest score", "3.00 [2.00, 4.00]"):
        assert said in page
    assert page.count("<img") == 3
    assert "Performance profiles" not in compare_report.page(compare.compare(write("e", scores=[1.0])))


@pytest.mark.parametrize(
    ("value", "like", "said"),
    [(1234.56, None, "1234.6"), (12.345, None, "12.35"), (0.12345, None, "0.123"), (0.0, None, "0.00"),
     (1e7, None, "1e+07"), (-250.04, None, "-250.0"), (12.345, 250.0, "12.3"), (1e-5, None, "1e-05")],
)
def test_numbers_have_about_four_digits(value, like, said):
    assert compare_report.number(value, like) == said
