"""The table of the comparison with peers, with numbers worked by hand; no peer is installed for it."""

import pytest
from script_modules import load

rows = load("rows")
READ = rows.Reading


def read(*values):
    return [READ(value) for value in values]


def test_the_ratio_is_of_each_round_and_not_of_the_medians():
    found = rows.row("p", "ms", read(10.0, 20.0, 40.0), read(30.0, 20.0, 60.0), "n")
    assert (found.ours, found.theirs) == (20.0, 30.0)
    assert (found.ratio, found.low, found.high) == (1.5, 1.0, 3.0)
    assert (found.compared, found.rounds, found.note) == (3, 3, "n")


def test_a_round_without_a_figure_is_marked_and_leaves_the_ratio_to_the_others():
    late = READ(None, "not within 60,000 steps")
    found = rows.row("p", "s", read(10.0, 10.0), [late, READ(25.0)])
    assert (found.ratio, found.low, found.high, found.compared, found.rounds) == (2.5, 2.5, 2.5, 1, 2)
    assert found.note == "theirs: not within 60,000 steps (1 of 2)"


def test_a_peer_that_failed_has_a_row_with_the_reason():
    broken = READ(None, "failed: no wheel")
    found = rows.row("p", "s", read(10.0, 12.0), [broken, broken])
    assert (found.ours, found.theirs, found.ratio, found.low, found.compared) == (11.0, None, None, None, 0)
    assert found.note == "theirs: failed: no wheel"
    assert rows.table([found]).splitlines()[-1] == "| p | s | 11.0 | - | - | - | 0 of 2 | theirs: failed: no wheel |"


def test_both_sides_may_be_missing():
    never, broken = READ(None, "not within 5 steps"), READ(None, "failed: it broke")
    assert rows.row("p", "s", [never], [broken], "n").note == "ours: not within 5 steps; theirs: failed: it broke; n"


def test_rounds_must_match():
    with pytest.raises(ValueError, match="shorter"):
        rows.row("p", "s", read(1.0, 2.0), read(1.0))


def evaluations(*values):
    return [rows.Evaluation(*value) for value in values]


def test_the_first_evaluation_at_the_goal_counts_and_start_and_compilation_are_not_in_the_pace():
    found = rows.learned(
        evaluations((0, 5.0, 20.0), (1000, 9.0, 60.0), (2000, 100.0, 64.0), (4000, 960.0, 70.0), (5000, 1000.0, 90.0)),
        950.0, "5,000 steps")
    assert (found.seconds.value, found.steps.value) == (70.0, 4000.0)
    assert found.pace.value == pytest.approx(1000 * (70.0 - 60.0) / 3000)


def test_a_run_that_does_not_learn_says_so_and_keeps_its_pace():
    found = rows.learned(evaluations((0, 5.0, 1.0), (100, 9.0, 6.0), (200, 9.0, 7.0)), 950.0, "200 steps")
    assert found.seconds == found.steps == READ(None, "not within 200 steps")
    assert found.pace.value == pytest.approx(10.0)


@pytest.mark.parametrize("known", [[], [(0, 990.0, 3.0)], [(100, 990.0, 3.0)]])
def test_one_evaluation_gives_no_pace(known):
    assert rows.learned(evaluations(*known), 950.0, "").pace == READ(None, "one evaluation gives no pace")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (4096.0, "4,096"), (151.4, "151"), (12.34, "12.3"), (1.5, "1.50"), (0.1, "0.10"), (0.0123, "0.0123")],
)
def test_three_digits_are_shown(value, shown):
    line = rows.table([rows.Row("p", "q", value, None, None, None, None, 0, 1)]).splitlines()[-1]
    assert line.split(" | ")[2] == shown
