"""Every planner on one model, in one run: searches a second, model steps, and regret where the optimum is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console
from rich.table import Table

from mbrl.bench import control, timing
from mbrl.core.distributions import Squashed
from mbrl.core.types import Params, PRNGKey
from mbrl.planners import PLANNERS, Problem, make
from mbrl.planners.base import Arrival
from mbrl.runner.compiled import options

WIDTH, ACTIONS = 256, 6  # of the latent and of every hidden layer of the model that is timed
NOISE = 0.1  # of the noisy critics, in deviations of the value
# The problems whose optimum is known; one that is built is kept for the next planner.
PROBLEMS: dict[str, Callable[[], control.Known]] = {
    "lqr": control.lqr,
    "pendulum": control.pendulum,
    "lqr_noisy": lambda: control.lqr(NOISE),
    "pendulum_noisy": lambda: control.pendulum(NOISE),
}
_MPPI, _MCTX, _TREE = (PLANNERS[name].config for name in ("mppi", "mctx", "soft_tree"))
ROWS: dict[str, Any] = {
    "random": PLANNERS["random"].config,
    "cem": PLANNERS["cem"].config,
    "icem": PLANNERS["icem"].config,
    "mppi_9216": _MPPI,  # and the steps of the policy's own trajectories
    "gradient": PLANNERS["gradient"].config,
    "mctx": _MCTX,
    "mctx_50": dataclasses.replace(_MCTX, simulations=50),
    # With mctx's model steps and K; of what was not refined the mean has half the regret of the best.
    "soft_tree_plain": dataclasses.replace(_TREE, refine=0, choose="mean"),
    "soft_tree": _TREE,
}
MANY = 1000  # model steps, above which a planner is timed for one environment instead of a batch


def network() -> tuple[Problem, Params]:
    """Return a model of the size that all planners are timed on: two layers of dynamics, one hidden layer a head."""
    sizes = {"dynamics": (WIDTH + ACTIONS, WIDTH), "reward": (WIDTH, 1), "value": (WIDTH, 1)}
    sizes |= {"policy": (WIDTH, 2 * ACTIONS)}
    rng = np.random.default_rng(0)
    layer = lambda inputs, outputs: jnp.asarray(rng.normal(size=(inputs, outputs)) / np.sqrt(inputs), jnp.float32)
    params = {name: (layer(inputs, WIDTH), layer(WIDTH, outputs)) for name, (inputs, outputs) in sizes.items()}

    def run(params: Params, name: str, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
        hidden, out = params[name]
        return jax.nn.silu(x @ hidden) @ out

    def step(params: Params, key: PRNGKey, latent: Float[Array, "B L"], action: Float[Array, "B A"]) -> Arrival:
        del key
        after = jnp.tanh(run(params, "dynamics", jnp.concatenate([latent, action], -1)))
        reward = run(params, "reward", after)[..., 0]
        return Arrival(after, reward, jnp.ones_like(reward))

    def policy(params: Params, latent: Float[Array, "*N L"]) -> Squashed:
        mean, std = jnp.split(run(params, "policy", latent), 2, -1)
        return Squashed(jnp.tanh(mean), 0.1 + 0.9 * jax.nn.sigmoid(std))

    value = lambda params, latent: run(params, "value", latent)[None, ..., 0]
    return Problem(step, ACTIONS, 0.99, policy, value), params


def measure(batch: int, repeats: int, seconds: float, episodes: int = 32, steps: int = 20) -> dict[str, Any]:
    """Time every planner and measure its regret.

    Args:
        batch: environments that a search is for at once; planners of many model steps are timed for one.
        repeats: calls of each, at most.
        seconds: for all of them together, at most.
        episodes: of each problem; all planners get the same.
        steps: of an episode.

    Returns:
        ``rows``, one a planner: searches a second (of a whole batch, counted by environment), the batch, model steps,
        and the mean regret on each problem with its standard error.
    """
    problem, params = network()
    runs = [_search(config, problem, params, batch) for config in ROWS.values()]
    times = timing.in_turn([run for run, _ in runs], repeats, seconds)
    known = {name: build() for name, build in PROBLEMS.items()}
    rows = []
    for (name, config), (_, size), taken in zip(ROWS.items(), runs, times, strict=True):
        regrets = {key: _regret(config, one, episodes, steps) for key, one in known.items()}
        rows.append({
            "planner": name,
            "batch": size,
            "searches_per_s": round(size / float(np.median(taken)), 1),
            "ms": round(float(np.median(taken)) * 1e3, 3),
            "model_steps": make(config, problem).steps,
            "regret": {key: round(float(one.mean()), 4) for key, one in regrets.items()},
            "regret_error": {key: round(float(one.std()) / len(one) ** 0.5, 4) for key, one in regrets.items()},
        })
    return {"device": jax.devices()[0].device_kind, "rows": rows}


def _search(config: Any, problem: Problem, params: Params, batch: int) -> tuple[Callable[[], Array], int]:
    """Return a call that plans once, and for how many environments."""
    planner = make(config, problem)
    size = batch if planner.steps <= MANY else 1
    latent = jnp.tanh(jax.random.normal(jax.random.key(1), (size, WIDTH)))
    search = jax.jit(lambda params, key, latent: planner.plan(params, key, latent, planner.initial(size))[0].action)
    return lambda: search(params, jax.random.key(2), latent), size


def _regret(config: Any, known: control.Known, episodes: int, steps: int) -> np.ndarray:
    planner = make(config, known.problem)
    run = jax.jit(lambda key: control.regret(known, planner, key, episodes, steps), compiler_options=options(0))
    return np.asarray(run(jax.random.key(3)))


def table(report: dict[str, Any]) -> str:
    """Return the report as a table to read."""
    right = [f"[right]{name}[/]" for name in ("searches/s", "batch", "model steps", *PROBLEMS)]
    grid = Table("planner", *right)
    for row in report["rows"]:
        regrets = [f"{row['regret'][name]:.3f} ± {row['regret_error'][name]:.3f}" for name in PROBLEMS]
        grid.add_row(row["planner"], f"{row['searches_per_s']}", f"{row['batch']}", f"{row['model_steps']}", *regrets)
    console = Console(width=150)
    with console.capture() as captured:
        console.print(grid)
    legend = "regret of an episode (mean ± standard error), noisy: with noise on the critics"
    return f"{captured.get()}{legend}; {report['device']}"
