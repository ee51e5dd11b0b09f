"""What a comparison says, in words and on a page: the table's cells, the runs that are not whole, the figures."""

from __future__ import annotations

from collections.abc import Sequence

from mbrl.evaluation import comparison as judge
from mbrl.evaluation.comparison import Estimate
from mbrl.runner.compare import Comparison, Overall, Row, Scored
from mbrl.version import __version__
from mbrl.viz import comparison as figures
from mbrl.viz.report import Picture, Section, render

COLUMNS = ("task", "agent", "seeds", "env steps", "IQM [95 % interval]", "mean ± std", "minimum", "")

_HOW = """\
The score of a run is the mean return of its latest evaluation; one that ended early stands with the latest it had. IQM
is the interquartile mean: a quarter of the runs is cut off at either end, by fractions where a quarter of them is no
whole number. Intervals hold 95 % of 2,000 stratified bootstrap resamples, in which each task's runs are drawn anew from
its own (percentile method); they say how far other seeds might lead, and are rough for fewer than about ten. Standard
deviations are those of the runs themselves. All of it follows Agarwal et al. 2021, "Deep Reinforcement Learning at the
Edge of the Statistical Precipice". How far imagined returns are from real ones is not among what runs log, so it is not
compared; the report of each run measures it."""


def cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the table, a row of ``COLUMNS`` for each agent on each task."""
    return [_cells(row) for row in comparison.rows]


def _cells(row: Row) -> tuple[str, ...]:
    steps = sorted({one.step for one in row.runs if one.step is not None and not one.failed})
    steps = steps or sorted({one.step for one in row.runs if one.step is not None})
    span = " to ".join(f"{step:,}" for step in dict.fromkeys((steps[0], steps[-1]))) if steps else "-"
    head = (row.task, row.agent, str(len(row.scores)), span)
    if row.estimate is None:
        return (*head, "-", "-", "-", remark(row))
    scores = row.scores
    mean, spread = float(scores.mean()), float(scores.std())
    about = number(mean) + (f" ± {number(spread, mean)}" if len(scores) > 1 else "")
    return (*head, spell(row.estimate), about, number(float(scores.min()), mean), remark(row))


def remark(row: Row) -> str:
    """Return what is to be known of a row: that there is no interval, and how many of its runs failed."""
    count, runs = len(row.scores), len(row.runs)
    remarks = {
        "no score": not count,
        "one seed: no interval": count == 1,
        f"{sum(one.failed for one in row.runs)} of {runs} failed": any(one.failed for one in row.runs),
        f"{runs - count} of {runs} without evaluation": 0 < count < runs,
    }
    return "; ".join(said for said, holds in remarks.items() if holds)


def failures(comparison: Comparison) -> list[str]:
    """Return a sentence for each run that failed or was not evaluated."""
    return [
        f"{'failed' if one.failed else 'no score'}: {one.run.path}, seed {one.run.seed}: {one.trouble}"
        + ("" if one.score is None else f"; counted with {number(one.score)}, its return at {one.step:,}")
        for row in comparison.rows for one in row.runs if one.trouble
    ]


def number(value: float, like: float | None = None) -> str:
    """Return a return in about four digits, or with as many decimals as ``like`` would have."""
    size = abs(value if like is None else like)
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.3g}"
    return f"{value:.{1 if size >= 100 else 2 if size >= 1 or not size else 3}f}"


def spell(estimate: Estimate) -> str:
    """Return a number and its interval, where it has one."""
    value, ends = float(estimate.value), _ends(estimate)
    return number(value) + (f" [{number(ends[0], value)}, {number(ends[1], value)}]" if ends else "")


def _ends(estimate: Estimate) -> tuple[float, float] | None:
    return None if estimate.low is None or estimate.high is None else (float(estimate.low), float(estimate.high))


def page(comparison: Comparison, more: Sequence[Section] = ()) -> str:
    """Return the comparison as one HTML page that needs nothing else, with ``more`` before its own sections."""
    rows, notes = comparison.rows, (*comparison.notes, *failures(comparison))
    runs = [one for row in rows for one in row.runs]
    tasks = dict.fromkeys(row.task for row in rows)
    failed = sum(one.failed for one in runs)
    facts = {
        "Runs": f"{len(runs)}, of which {failed} failed" if failed else str(len(runs)),
        "Tasks": str(len(tasks)),
        "Agents": str(len(comparison.agents)),
        "Intervals": "95 %, stratified bootstrap over seeds",
        "Version": f"mbrl {__version__}",
    }
    sections = [
        *more,
        Section("Scores", table=(COLUMNS, *cells(comparison))),
        *([Section("Worth knowing", table=(("",), *((note,) for note in notes)))] if notes else []),
        _curves(comparison),
        *_overall(comparison),
        *_pairs(comparison),
        Section("Scale", "What counts as 0 and as 1 where scores are normalised.", table=_scale(comparison)),
        Section("Runs", "Every run that was compared.", table=_runs(comparison)),
        Section("How the numbers were made", _HOW),
    ]
    title = f"{len(comparison.agents)} agents on {len(tasks)} tasks" if len(comparison.agents) > 1 else rows[0].agent
    return render(f"Comparison: {title}", facts, sections)


def _curves(comparison: Comparison) -> Section:
    curves: dict[str, dict[str, figures.Band]] = {}
    each: dict[str, dict[str, list]] = {}
    for row in comparison.rows:
        evaluations = [(one.run.steps, one.run.returns) for one in row.runs if one.run.steps.size]
        if evaluations:
            curves.setdefault(row.task, {})[row.agent] = judge.curve(evaluations)
            each.setdefault(row.task, {})[row.agent] = evaluations
    picture = figures.learning_curves(curves, comparison.agents, each)
    caption = (
        "Interquartile mean of the evaluation return over the seeds, and its 95 % interval, where all seeds of an "
        "agent have data; thin lines are single seeds."
    )
    return Section("Learning curves", pictures=(Picture("curves.png", picture, caption),))


def _overall(comparison: Comparison) -> list[Section]:
    """Return the profiles; none of one agent on one task."""
    overall = comparison.overall
    if overall is None:
        several = len(comparison.agents) > 1 or len(comparison.scale) > 1
        return [Section("Performance profiles", "There is no task that all agents were run on.")] if several else []
    shares = {
        agent: (overall.taus, found.value, found.low, found.high) for agent, found in overall.profiles.items()
    }
    picture = figures.profiles(overall.taus, shares, comparison.agents)
    text = (
        f"Over normalised scores of {_listed(overall)}. The higher the curve, the better; where two cross, one agent "
        "is better at its best and worse at its worst. The numbers are the interquartile means of all tasks' runs "
        "together."
    )
    facts = {agent: spell(mean) for agent, mean in overall.means.items()}
    caption = "Share of runs above a normalised score, with pointwise 95 % intervals."
    return [Section("Performance profiles", text, facts, pictures=(Picture("profiles.png", picture, caption),))]


def _listed(overall: Overall) -> str:
    if len(overall.tasks) == 1:
        return "".join(overall.tasks)
    return f"the {len(overall.tasks)} tasks that all agents were run on: {', '.join(overall.tasks)}"


def _pairs(comparison: Comparison) -> list[Section]:
    if not comparison.pairs:
        return []
    bars = [
        (pair.better, pair.than, float(pair.estimate.value), _ends(pair.estimate)) for pair in comparison.pairs
    ]
    text = (
        "How probable it is that a run of one agent scores higher than a run of the other, on a task drawn at random "
        "from those that both were run on; a tie counts half. An interval that reaches across one half leaves open "
        "which of the two is better."
    )
    caption = "Probability of improvement, with 95 % intervals."
    picture = Picture("improvement.png", figures.improvements(bars), caption)
    return [Section("Probability of improvement", text, pictures=(picture,))]


def _scale(comparison: Comparison) -> tuple[tuple[str, ...], ...]:
    source = {True: "given", False: "smallest and largest score of the runs compared here"}
    rows = [(task, number(s.low), number(s.high), source[s.given]) for task, s in comparison.scale.items()]
    return ("task", "0 is", "1 is", "from"), *rows


def _runs(comparison: Comparison) -> tuple[tuple[str, ...], ...]:
    rows = [
        (str(one.run.path), str(one.run.seed), row.task, row.agent, *_scored(one), one.trouble)
        for row in comparison.rows for one in row.runs
    ]
    return ("folder", "seed", "task", "agent", "env steps", "score", ""), *rows


def _scored(one: Scored) -> tuple[str, str]:
    return ("-", "-") if one.score is None or one.step is None else (f"{one.step:,}", number(one.score))
