"""When planning pays: the same trained weights act by the policy and by planners, on tasks that differ in kind.

Two blocks. In the first a small Dreamer is trained on each task, several seeds side by side, and every row is the same
agents over the same fresh first states. In the second the model and the values at a plan's end are exact and the policy
is weak, which tells what planning could bring if nothing were wrong with what it plans in.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console
from rich.table import Table
from scipy import stats

from mbrl.agents.dreamer import DreamerConfig
from mbrl.agents.planning import with_planner
from mbrl.behaviours.actor_critic import ActorCriticConfig
from mbrl.bench import control
from mbrl.core.errors import UserError, unknown
from mbrl.core.optim import OptimConfig
from mbrl.core.types import PRNGKey
from mbrl.envs import make_vector
from mbrl.envs.config import EnvConfig
from mbrl.evaluation.rollout import Evaluation, make_evaluate
from mbrl.planners import PLANNERS, Planner, Problem, make
from mbrl.replay.config import ReplayConfig
from mbrl.runner import seeds as over
from mbrl.runner.compiled import compile_for, options
from mbrl.runner.config import Config
from mbrl.runner.epoch import Program, make_program
from mbrl.runner.measures import named_key
from mbrl.runner.state import TrainState
from mbrl.worldmodels.rssm import RSSMConfig

CONFIDENCE = 0.95
WORTH = 0.01  # of the way from random to best: a gain below it is none
POLICY = "policy"
# Fewer samples than the planners' defaults: every row is to be paid for on two cores.
ROWS: dict[str, Any] = {
    "mppi": dataclasses.replace(
        PLANNERS["mppi"].config, samples=128, horizon=5, iterations=3, elites=16, policy_samples=8
    ),
    "icem": dataclasses.replace(PLANNERS["icem"].config, samples=128, iterations=3, elites=16, kept=4),
    "soft_tree": PLANNERS["soft_tree"].config,
}

# With an exact model a step costs next to nothing: MPPI as it is by default as well, by its model steps.
WHOLE: dict[str, Any] = {"mppi_9288": PLANNERS["mppi"].config}


class Task(NamedTuple):
    """What is learned, and between which returns that lies."""

    env: str
    best: float
    random: float
    steps: int  # env steps to train for


TASKS = {
    "sparse": Task("probe/goal", 1.0, 0.057, 6400),
    "dense": Task("classic/pendulum", -150.0, -1200.0, 6400),
    "16 actions": Task("probe/joints", 9.55, -4.55, 6400),
}
# What has an exact model: the policy is half as bold as the best one, that of the pendulum knows nothing.
EXACT: dict[str, Callable[[], control.Known]] = {
    "lqr, 6 actions": control.lqr,
    "lqr, 16 actions": lambda: control.lqr(states=24, actions=16),
    "pendulum": control.pendulum,
}
_CONFIG = Config(
    agent=DreamerConfig(
        size="nano",
        worldmodel=RSSMConfig(
            deter=128, hidden=64, units=64, latent="gaussian", stoch=24, bins=127, encoder_layers=1, decoder_layers=1
        ),
        behaviour=ActorCriticConfig(horizon=10, bins=127, actor_layers=2, critic_layers=2),
        optim=OptimConfig(1e-3, warmup=20),
    ),
    num_envs=8,
    prefill=1280,
    epoch=640,
    train_ratio=64.0,
    replay=ReplayConfig(capacity=8192, batch_size=16, batch_length=10),
)


class Limits(NamedTuple):
    """How much is done."""

    steps: int = 0  # env steps of each task; 0 for its own
    seeds: int = 4
    episodes: int = 16
    minutes: float = 15.0  # after which nothing more is begun
    task: str = "all"  # one of `TASKS` or `EXACT` alone


class Gain(NamedTuple):
    """What planning brings, by an interval of Student's t over the mean of paired differences."""

    mean: float
    low: float  # NaN of a single difference
    high: float
    pays: str  # "yes", "no" or "unclear"


def gain(differences: Float[np.ndarray, "N"], worth: float) -> Gain:
    """Judge paired differences, with minus without.

    Args:
        differences: one of each independent unit: a seed, or an episode where nothing was trained.
        worth: what a gain must be at least. It pays if the whole interval lies above that, and does not if the whole
            interval lies below; else it is unclear.
    """
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Gain(mean, float("nan"), float("nan"), "unclear")
    error = float(differences.std(ddof=1)) / count**0.5
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    low, high = mean - half, mean + half
    return Gain(mean, low, high, "yes" if low > worth else "no" if high < worth else "unclear")


def measure(limits: Limits) -> dict[str, Any]:
    """Train and act; what there is no time left for is not begun, and stands in ``left_out``."""
    end, rows, left = time.perf_counter() + 60 * limits.minutes, [], []
    for name in _asked(limits):
        if time.perf_counter() > end:
            left.append(name)
            continue
        found, missing = _exact(name, end) if name in EXACT else _learned(name, limits, end)
        rows += found
        left += missing
    told = {"steps", "seeds", "episodes"}
    return {
        "device": jax.devices()[0].device_kind,
        **{name: value for name, value in limits._asdict().items() if name in told},
        "rows": rows,
        "left_out": left,
    }


def check(limits: Limits) -> None:
    """Raise a UserError for limits that make no sense."""
    for name, least in {"steps": 0, "seeds": 1, "episodes": 1, "minutes": 0}.items():
        if not getattr(limits, name) >= least:
            raise UserError(f"--{name} must be at least {least}, not {getattr(limits, name)}")
    known = ["all", *EXACT, *TASKS]
    if limits.task not in known:
        raise unknown("task", limits.task, known)
    if 0 < limits.steps <= _CONFIG.prefill:
        raise UserError(
            f"--steps must be 0, or above the {_CONFIG.prefill} random steps that come first, not {limits.steps}"
        )


def _asked(limits: Limits) -> list[str]:
    return [name for name in (*TASKS, *EXACT) if limits.task in {"all", name}]


def _learned(name: str, limits: Limits, end: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of a task, and what there was no time for."""
    task = TASKS[name]
    steps = limits.steps or task.steps
    config = dataclasses.replace(_CONFIG, env=EnvConfig(task.env), seeds=limits.seeds, steps=steps)
    program, state = train(config)
    rows, left, means = [], [], None
    for planner, described in ({POLICY: None} | ROWS).items():
        if time.perf_counter() > end:
            left.append(f"{name}: {planner}")
            continue
        found, seconds = _play(program, state, config, described, limits.episodes)
        returns = np.atleast_2d(np.asarray(found.returns, np.float64)).mean(1)
        means = returns if means is None else means
        decisions = int(np.max(found.lengths)) * limits.seeds * limits.episodes
        cost = {
            "ms": round(seconds / decisions * 1e3, 4),
            "model_steps": 0 if described is None else _steps(described, program.agent.problem),
        }
        judged = None if described is None else gain(returns - means, WORTH * (task.best - task.random))
        done = {"env_steps": int(np.max(state.step))}
        rows.append(_row(f"{name}: {task.env}", planner, returns, judged, cost) | done)
    return rows, left


def _steps(config: Any, problem: Problem | None) -> int:
    assert problem is not None
    return make(config, problem).steps


def train(config: Config[Any]) -> tuple[Program, TrainState]:
    """Train in memory alone; no folder is written."""
    program = make_program(config)
    state = program.init(over.run_key(config))
    while int(np.max(state.step)) < config.prefill:
        state, _ = program.prefill(state)
    while int(np.max(state.step)) < config.steps:
        state, _ = program.epoch(state)
    return program, state


def _play(
    program: Program, state: TrainState, config: Config[Any], planner: Any, episodes: int
) -> tuple[Evaluation, float]:
    """Return the evaluation of every seed over the same fresh first states, and the seconds it ran."""
    agent = program.agent if planner is None else with_planner(program.agent, planner)
    evaluate = over.evaluate_seeds(config, make_evaluate(agent, make_vector(config.env, episodes), episodes))
    # Each seed has first states of its own, so that their differences are independent; all planners have the same.
    key = over.keys_of(config, lambda seed: named_key(seed, "fresh episodes"))
    run = compile_for(evaluate, state.agent, key).call
    jax.block_until_ready(run(state.agent, key))
    begin = time.perf_counter()
    found = jax.block_until_ready(run(state.agent, key))
    return found, time.perf_counter() - begin


def _exact(name: str, end: float, episodes: int = 32, steps: int = 20) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of a problem with an exact model; its return is minus the regret."""
    known, rows, left, without = EXACT[name](), [], [], None
    for label, config in ({POLICY: None} | ROWS | WHOLE).items():
        if time.perf_counter() > end:
            left.append(f"{name}: {label}")
            continue
        planner = None if config is None else make(config, known.problem)
        run = jax.jit(_loop(known, planner, episodes, steps), compiler_options=options(0))
        jax.block_until_ready(run(jax.random.key(3)))
        begin = time.perf_counter()
        returns = -np.asarray(run(jax.random.key(3)), np.float64)
        cost = {
            "ms": round((time.perf_counter() - begin) / (episodes * steps) * 1e3, 4),
            "model_steps": 0 if planner is None else planner.steps,
        }
        without = returns if without is None else without
        judged = None if planner is None else gain(returns - without, WORTH * float(-without.mean()))
        rows.append(_row(f"exact model: {name}", label, returns, judged, cost))
    return rows, left


def _loop(known: control.Known, planner: Planner | None, episodes: int, steps: int) -> Callable[[PRNGKey], Array]:
    if planner is None:
        return lambda key: control.policy_regret(known, key, episodes, steps)
    return lambda key: control.regret(known, planner, key, episodes, steps)


def _row(
    task: str, planner: str, returns: Float[np.ndarray, "N"], judged: Gain | None, cost: dict[str, Any]
) -> dict[str, Any]:
    finite = lambda x: round(float(x), 4) if np.isfinite(x) else None
    error = returns.std(ddof=1) / len(returns) ** 0.5 if len(returns) > 1 else float("nan")
    row = {"task": task, "acts_by": planner, "return": finite(returns.mean()), "return_error": finite(error), **cost}
    if judged is None:
        return row
    return row | {"gain": finite(judged.mean), "gain_low": finite(judged.low), "gain_high": finite(judged.high),
                  "pays": judged.pays}


def plan_of(limits: Limits) -> str:
    """Return in one sentence what is about to be done."""
    asked = _asked(limits)
    tasks = [task for name, task in TASKS.items() if name in asked]
    steps = max([limits.steps or task.steps for task in tasks], default=0)
    return (
        f"{len(asked) - len(tasks)} problems with an exact model, Dreamer on {len(tasks)} tasks: {steps:,} env steps, "
        f"{limits.seeds} seeds side by side, {limits.episodes} episodes of each for every row; "
        f"nothing is begun after {limits.minutes:g} minutes"
    )


def table(report: dict[str, Any]) -> str:
    """Return the report as a table to read."""
    right = [f"[right]{name}[/]" for name in ("return", "gain, 95 %", "ms a decision", "model steps")]
    grid, before = Table("task", "acts by", *right, "pays"), ""
    number = lambda x: "-" if x is None else f"{x:.3g}"
    for row in report["rows"]:
        new = row["task"] != before
        if new:
            grid.add_section()
        span = f"{number(row.get('gain_low'))} to {number(row.get('gain_high'))}"
        grid.add_row(
            row["task"] if new else "", row["acts_by"], f"{number(row['return'])} ± {number(row['return_error'])}",
            f"{number(row['gain'])} ({span})" if "gain" in row else "",
            f"{row['ms']:.3g}", f"{row['model_steps']}", row.get("pays", ""),
        )
        before = row["task"]
    console = Console(width=130)
    with console.capture() as captured:
        console.print(grid)
    left = f"; not begun: {', '.join(report['left_out'])}" if report["left_out"] else ""
    legend = (
        "return: mean ± standard error, with an exact model minus the regret; "
        "a gain below 1 % of what there is to gain is none; each verdict is of 95 % by itself, not of all together; "
        "ms a decision: of a batch of all episodes, with the environment's step; mppi and icem try 128 sequences in "
        "each of 3 iterations, fewer than by default; mppi_9288 and soft_tree are as by default"
    )
    return f"{captured.get()}{legend}; {report['device']}{left}"
