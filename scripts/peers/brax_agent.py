"""Trains one of Brax's own agents on its inverted pendulum until an evaluation reaches the goal.

Prints one JSON line: ``evaluations`` (``[env steps, mean return, seconds since the process started]`` each),
``cut_off`` (whether the seconds allowed ended it), ``settings`` and ``versions``. Runs in the peer's own environment.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib import metadata
from typing import Any

BEGIN = time.time()

# The notebook of Brax, `notebooks/training.ipynb`, for this environment; evaluated after every batch of 163,840 steps.
PPO: dict[str, Any] = {
    "reward_scaling": 10, "normalize_observations": True, "action_repeat": 1, "unroll_length": 5, "num_minibatches": 32,
    "num_updates_per_batch": 4, "discounting": 0.97, "learning_rate": 3e-4, "entropy_cost": 1e-2, "num_envs": 2048,
    "batch_size": 1024,
}
# Brax publishes none of SAC's for this environment; these are those of its own learning test,
# `brax/training/agents/sac/train_test.py`.
SAC: dict[str, Any] = {
    "learning_rate": 3e-4, "discounting": 0.99, "batch_size": 64, "num_envs": 64, "normalize_observations": True,
    "reward_scaling": 10, "grad_updates_per_step": 64,
}
EVERY = {"ppo": 163_840, "sac": 2_048}  # env steps between evaluations


class Enough(Exception):  # noqa: N818 - nothing went wrong: there is no other way to stop Brax's training
    """The goal is reached, or the next evaluation would lie beyond a limit."""


class Watch:
    """Collects evaluations, and stops the training when it has seen enough."""

    def __init__(self, goal: float, budget: int, limit: float, started: float) -> None:
        """Take the return to reach, the env steps and the seconds allowed, and when the process started."""
        self.goal, self.budget, self.limit, self.started = goal, budget, limit, started
        self.evaluations: list[tuple[int, float, float]] = []
        self.cut_off = False

    def __call__(self, steps: int, metrics: dict[str, Any]) -> None:
        """Note one evaluation; raises Enough."""
        before = self.evaluations[-1][0] if self.evaluations else 0
        seconds, mean = time.time() - self.started, float(metrics["eval/episode_reward"])
        self.evaluations.append((int(steps), mean, seconds))
        sys.stderr.write(f"{steps:,} steps: {mean:.1f} after {seconds:.0f} s\n")
        self.cut_off = mean < self.goal and seconds > self.limit
        if mean >= self.goal or self.cut_off or 2 * steps - before > self.budget:
            raise Enough


def main(argv: list[str]) -> int:
    """Train and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agent", choices=sorted(EVERY))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--goal", type=float, default=950.0)
    parser.add_argument("--budget", type=int, required=True, help="env steps")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds")
    parser.add_argument("--episodes", type=int, default=20, help="of an evaluation")
    parser.add_argument("--started", type=float, default=BEGIN, help="when the process started, of time.time()")
    args = parser.parse_args(argv)
    settings = PPO if args.agent == "ppo" else SAC
    watch = Watch(args.goal, args.budget, args.limit, args.started)
    train(args, settings, watch)
    names = ("brax", "jax", "jaxlib", "flax", "optax", "mujoco", "numpy")
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
    result = {"evaluations": watch.evaluations, "cut_off": watch.cut_off, "settings": settings, "versions": versions}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def train(args: argparse.Namespace, settings: dict[str, Any], watch: Watch) -> None:
    """Run Brax's training with the physics, the length and the kind of evaluation that ours has."""
    from brax import envs
    from brax.training.agents.ppo import train as ppo
    from brax.training.agents.sac import train as sac

    lend_replicated()
    function = {"ppo": ppo.train, "sac": sac.train}[args.agent]
    try:
        function(
            environment=envs.get_environment("inverted_pendulum"),
            num_timesteps=args.budget,
            num_evals=-(-args.budget // EVERY[args.agent]) + 1,
            episode_length=1000,
            num_eval_envs=args.episodes,
            deterministic_eval=True,
            seed=args.seed,
            progress_fn=watch,
            **settings,
        )
    except Enough:
        return


def lend_replicated() -> None:
    """Put back a function that Brax 0.14.2's training calls and JAX 0.10 no longer has, for the one device there is.

    Everything else of Brax stays as it is, and both sides run on the same JAX.
    """
    import jax
    import jax.numpy as jnp

    if not hasattr(jax, "device_put_replicated"):
        jax.device_put_replicated = lambda tree, _devices: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
