"""A run rebuilt from its folder, to evaluate it, look inside or draw its report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mbrl.agents.planning import with_planner
from mbrl.envs import make_vector
from mbrl.evaluation.rollout import Evaluation, make_evaluate
from mbrl.runner import rundir, seeds
from mbrl.runner.checkpoint import Checkpoints
from mbrl.runner.checks import check_evaluation, check_same, is_guest
from mbrl.runner.config import Config
from mbrl.runner.epoch import Program, make_program
from mbrl.runner.guest import GuestProgram, GuestState, make_guest
from mbrl.runner.measures import named_key
from mbrl.runner.seeds import run_key
from mbrl.runner.state import TrainState
from mbrl.runner.train import Result


class Loaded(NamedTuple):
    """A run as its newest (or best) valid checkpoint has it."""

    config: Config
    program: Program | GuestProgram
    state: TrainState | GuestState


def load(run_dir: str | Path, config: Config[Any], *, best: bool = False) -> Loaded:
    """Rebuild a run; nothing in its folder is changed, so it may be running.

    Args:
        run_dir: the run's folder.
        config: what its ``config.yaml`` says.
        best: take the checkpoint with the best evaluation return instead of the newest.

    Raises:
        UserError: no run, no valid checkpoint, or a checkpoint of another config.
    """
    run = rundir.existing(Path(run_dir))
    saves = Checkpoints(run.checkpoints)
    saved = saves.find(best=best)
    check_same(saved.config, config)
    # Whatever it was trained on, it is looked at on one device.
    plain = dataclasses.replace(config, devices=1, fsdp=False)
    program = make_guest(config) if is_guest(config) else make_program(plain)
    template = jax.eval_shape(program.init, run_key(config))
    return Loaded(config, program, saves.load(saved, template))


def evaluate(run: Loaded | Result, episodes: int = 20, seed: int = 0, planner: Any = None) -> Evaluation:
    """Roll the policy's mode out over fresh episodes.

    Args:
        run: from ``load`` or ``train``.
        episodes: E, how many; all run side by side.
        seed: of first states and of the agent's own sampling; none of them is met in training, whatever its seed.
        planner: the config of a planner that acts instead of the policy, with the same model; see ``PLANNERS``.

    Returns:
        numbers ``[E]``; of a run of several seeds ``[S, E]``, on the same first states for each.

    Raises:
        UserError: no episodes, a seed out of its range, or a planner that cannot work with the agent.
    """
    check_evaluation(episodes, seed)
    agent = run.program.agent if planner is None else with_planner(run.program.agent, planner)
    env = make_vector(run.config.env, episodes)
    evaluate_one = make_evaluate(agent, env, episodes)
    key = seeds.keys_of(run.config, lambda _: named_key(seed, "fresh episodes"))
    return seeds.evaluate_seeds(run.config, evaluate_one)(run.state.agent, key)
