"""What a sweep found: its table and one page."""

from __future__ import annotations

import numpy as np

from mbrl.sweeps import trial
from mbrl.sweeps.spec import Outcome, Sweep, ranked
from mbrl.version import __version__
from mbrl.viz import sweeps as figures
from mbrl.viz.report import Picture, Section, render

_SHOWN = 5  # trials that have a learning curve with a name


def columns(sweep: Sweep) -> tuple[str, ...]:
    """Return the table's columns."""
    return ("trial", "state", sweep.metric, "env steps", *sweep.space)


def cells(sweep: Sweep, outcome: Outcome) -> tuple[str, ...]:
    """Return a trial's row of ``columns``."""
    score = "-" if outcome.score is None else f"{outcome.score:.4g}"
    settings = (_spell(outcome.params[name]) if name in outcome.params else "-" for name in sweep.space)
    return (str(outcome.number), outcome.state, score, f"{outcome.steps:,}", *settings)


def page(sweep: Sweep, outcomes: list[Outcome]) -> str:
    """Return the sweep as one HTML page that needs nothing else."""
    best = ranked(outcomes, sweep.mode)
    scored = [one for one in best if one.score is not None]
    troubles = tuple((str(one.number), one.trouble) for one in best if one.trouble)
    facts = {
        "Experiment": sweep.experiment,
        "Trials": f"{len(outcomes)} of {sweep.trials}",
        "Failed": str(sum(one.state == "failed" for one in outcomes)),
        "Given up": str(sum(one.state == "stopped" for one in outcomes)),
        "Sampler": sweep.sampler,
        "Scheduler": sweep.scheduler,
        "Version": f"mbrl {__version__}",
    }
    text = (
        f"{sweep.about}. The score is the latest {sweep.metric} of a run; of many trials the best looks better than it "
        "is, so run its settings again with other seeds."
    )
    sections = [
        Section("Trials", text, table=(columns(sweep), *(cells(sweep, one) for one in best))),
        *([Section("Failures", table=(("trial", "what its process said last"), *troubles))] if troubles else []),
        *([_settings(sweep, scored), _curves(sweep, scored)] if scored else []),
        Section("Settings of all trials", table=(("setting", "value"), *_shared(sweep))),
    ]
    return render(f"Sweep: {sweep.name}", facts, sections)


def _settings(sweep: Sweep, scored: list[Outcome]) -> Section:
    panels = {
        name: ([one.params[name] for one in scored if name in one.params], one_range.kind == "log_uniform")
        for name, one_range in sweep.space.items()
    }
    scores = np.array([one.score for one in scored], float)
    whole = np.array([one.state == "done" for one in scored])
    caption = "Each dot is a trial; hollow ones did not come to their last step."
    picture = Picture("settings.png", figures.scores(panels, scores, whole, sweep.metric), caption)
    return Section("Scores over settings", pictures=(picture,))


def _curves(sweep: Sweep, scored: list[Outcome]) -> Section:
    curves = {
        one.number: tuple(np.array(trial.readings(one.run, sweep.metric), float).T) for one in scored if one.steps
    }
    named = [one.number for one in scored[:_SHOWN]]
    caption = "Every trial with a score; the best have a name."
    picture = Picture("curves.png", figures.curves(curves, named, sweep.metric), caption)
    return Section("Learning curves", pictures=(picture,))


def _shared(sweep: Sweep) -> list[tuple[str, str]]:
    return [(key, str(value)) for key, value in sweep.settings.items()] or [("-", "-")]


def _spell(value: float | int | str | bool) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
