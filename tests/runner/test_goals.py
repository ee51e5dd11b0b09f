"""How soon runs came to a goal, worked by hand."""

import json

import numpy as np
import pytest

from mbrl.runner import goals
from mbrl.runner.compare import Run
from mbrl.runner.reproduce_report import GOALS, goal_cells, page_section
from mbrl.runner.scores import judged
from mbrl.runner.suite import Suite, Task

HILL = Task("hill", "toy/hill", 1, 30, 3, {"quick": {}, "slow": {}}, (), None, goal=5.0)
SETTINGS = {"agent.name": "dreamer", "epoch": 1, "env.action_repeat": 1}


def run_of(path, seed, *returns):
    """A run evaluated every 10 env steps from 10, an epoch of 7 seconds each, and one more of 5 without evaluation."""
    path.mkdir(parents=True)
    rows = [{"step": 10 * i, "time/epoch": 7.0} for i in range(1, len(returns) + 1)]
    rows.append({"step": 999, "time/epoch": 5.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = 10 * np.arange(1, len(returns) + 1)
    return Run(path, seed, SETTINGS, steps, np.array(returns, float), int(steps[-1]) if returns else 0, "", "")


def row_of(tmp_path, agent, *each, task=HILL, seeds=3):
    runs = [run_of(tmp_path / agent / str(seed), seed, *returns) for seed, returns in enumerate(each)]
    return judged(task, agent, runs, seeds, 30)


def test_the_first_evaluation_at_the_goal_counts_though_it_is_lost_again(tmp_path):
    (pace,) = goals.paces([row_of(tmp_path, "quick", (1, 5, 2), (6, 1, 1), (4, 4.9, 5))])
    assert [one.steps for one in pace.arrivals] == [20, 10, 30]
    assert [one.seconds for one in pace.arrivals] == [14, 7, 21]
    assert (pace.median, pace.seconds) == (20, 14)


def test_what_comes_after_the_budget_does_not_count(tmp_path):
    runs = [run_of(tmp_path / "a", 0, 1, 1, 9), run_of(tmp_path / "b", 1, 1, 9, 9)]
    (pace,) = goals.paces([judged(HILL, "quick", runs, 2, 20)])
    assert [(one.steps, one.searched) for one in pace.arrivals] == [(None, 20), (20, 20)]


@pytest.mark.parametrize(
    ("each", "seeds", "median"),
    [
        (((9,), (1, 9), (1, 1)), 3, 20),  # 10, 20, never
        (((9,), (1, 1), (1, 1)), 3, None),
        (((9,), (1, 9)), 3, 20),  # one is missing
        (((9,), (1, 1, 9)), 2, 20),  # the mean of the two in the middle
        (((9,), (1, 1)), 2, None),
        (((), (1,)), 2, None),
    ],
)
def test_who_never_arrives_takes_forever(each, seeds, median, tmp_path):
    (pace,) = goals.paces([row_of(tmp_path, "quick", *each, seeds=seeds)])
    assert pace.median == median


def test_the_table_holds_agents_of_a_task_beside_its_first(tmp_path):
    quick = row_of(tmp_path, "quick", (5,), (1, 5), (5,))
    slow = row_of(tmp_path, "slow", (1, 1, 5), (1, 5), (1, 1, 1))
    never = row_of(tmp_path, "never", (1, 1), (), (2,))
    plain = row_of(tmp_path, "plain", (9,), task=HILL._replace(goal=None))
    assert goal_cells([plain]) == []
    missing = row_of(tmp_path, "missing", (1, 5))
    assert goal_cells([missing])[0][3:5] == ("20 · 2 missing", "-")
    assert goal_cells([quick, slow, plain, never]) == [
        ("hill", "quick", "5.00", "10 · 20 · 10", "10", "-", "7"),
        ("hill", "slow", "5.00", "30 · 20 · not by 30", "30", "3.0", "21"),
        ("hill", "never", "5.00", "not by 20 · not by 0 · not by 10", "-", "-", "-"),
    ]
    sections = page_section(Suite("toys", "Toys.", "", (HILL,)), [quick, slow])
    assert sections[1].table[0] == GOALS
    assert len(page_section(Suite("toys", "Toys.", "", (HILL,)), [plain])) == 1
