"""`mbrl eval`: a trained agent over fresh episodes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from mbrl.cli import compilation, planner
from mbrl.cli import config as reader


@dataclasses.dataclass(frozen=True)
class EvalArguments:
    """Roll out the policy's mode over fresh episodes, side by side.

    `--planner NAME` plans with the trained model instead; `mbrl list planners` has the names, and
    `mbrl eval --planner NAME --help` what can be set of each. `--planner none` asks the policy alone of an agent that
    plans by itself. What is not set of it is as the run has it: its own planner's settings, if it plans by that one,
    without the noise that explores.
    """

    run_dir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The run's folder."""
    episodes: int = 20
    """How many episodes."""
    seed: int = 0
    """Of the first states; the episodes are never those of training, whatever it is."""
    best: bool = False
    """Take the checkpoint with the best evaluation instead of the newest."""
    json: bool = False
    """Print the last line as JSON."""

    @property
    def planner(self) -> Any:
        """The config of the planner that acts, None for the policy; `--planner NAME`, see `mbrl list planners`."""
        return None


def run(argv: Sequence[str]) -> int:
    """Evaluate and print the numbers.

    Raises:
        UserError: something in the words or the run's folder is not right.
    """
    arguments = planner.command(EvalArguments, argv, "mbrl eval")
    if arguments is None:
        return 0
    numbers = _numbers(arguments)
    if arguments.json:
        print(json.dumps(numbers))
        return 0
    mean, deviation, length = (numbers[key] for key in ("return_mean", "return_std", "length_mean"))
    told = f"return {mean} ± {deviation} (mean ± deviation), length {length} agent steps"
    print(f"{told}, over {arguments.episodes} episodes")
    if "seeds" in numbers:
        print(f"of each seed: {', '.join(map(str, numbers['seeds']))}")
    return 0


def _numbers(arguments: EvalArguments) -> dict[str, Any]:
    """Return what the JSON line says; null stands for a number that is not finite.

    Of a run of several seeds the numbers are over all their episodes, and `seeds` has each one's mean return.
    """
    from mbrl.runner.checks import check_evaluation  # these bring jax and physics, which --help does without
    from mbrl.runner.restore import evaluate, load

    check_evaluation(arguments.episodes, arguments.seed)
    compilation.use_cache()
    loaded = load(arguments.run_dir, reader.load_run(arguments.run_dir), best=arguments.best)
    returns, lengths, _ = evaluate(loaded, arguments.episodes, arguments.seed, arguments.planner)
    means = {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "length_mean": float(lengths.mean()),
    }
    finite = lambda value: round(float(value), 4) if math.isfinite(value) else None
    numbers = {"episodes": arguments.episodes} | {name: finite(value) for name, value in means.items()}
    return numbers | ({"seeds": [finite(value) for value in returns.mean(-1)]} if returns.ndim > 1 else {})
