"""The config's numbers against each other, before anything is built, compiled or written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import yaml

from mbrl.agents import AGENTS, GuestEntry
from mbrl.core.errors import UserError
from mbrl.replay import memory
from mbrl.replay.config import check_sizes
from mbrl.runner import devices, yaml_file
from mbrl.runner.config import Config, to_dict, to_yaml, up_to_date
from mbrl.runner.state import TrainState

# What may change when a run goes on: it decides how long, how often and how much, but no number of the training.
MAY_CHANGE = (
    "steps", "max_faults", "run_dir", "report", "devices", "fsdp", "replay.frames", "evaluation.", "checkpoint.",
)

# What agents that bring their own training loop make nothing of.
NOT_FOR_GUESTS = ("replay.", "train_ratio", "prefill", "epoch", "max_faults", "fsdp")

# Env steps are counted in int32, to the end of the epoch in which a run has as many as it may.
MAX_STEPS = 2_000_000_000
MAX_AT_ONCE = 100_000_000
# Episodes of an evaluation, all of which are played side by side.
MAX_EPISODES = 1_000_000


def is_guest(config: Config[Any]) -> bool:
    """Whether the config's agent brings its own training loop."""
    return isinstance(AGENTS.get(config.agent.name), GuestEntry)


def check(config: Config[Any]) -> None:
    """Check every number that the runner itself uses.

    Raises:
        UserError: one is out of its range or does not fit another; the sentence says what would.
    """
    if is_guest(config):
        _check_guest(config)
        return
    _check_counts({"seeds": config.seeds, "epoch": config.epoch, "prefill": config.prefill})
    _check_any(config)
    if config.fsdp and config.seeds > 1:
        raise UserError(
            f"fsdp splits one seed's model over the devices, and {config.seeds} seeds are split over them themselves; "
            "leave one of the two out"
        )
    if config.max_faults < 0:
        raise UserError(f"max_faults must be at least 0, not {config.max_faults}")
    if config.seed + config.seeds > 2**32:
        raise UserError(f"seed {config.seed} leaves no room for {config.seeds} seeds below {2**32}; take a smaller one")
    if config.train_ratio <= 0:
        raise UserError(f"train_ratio must be positive, not {config.train_ratio}")
    check_sizes(config.replay, config.num_envs)
    _check_epoch(config)
    _check_updates(config)


def _check_guest(config: Config[Any]) -> None:
    """Check the numbers of an agent that brings its own training loop, and that none is set that has no part in it."""
    _check_any(config)
    name = config.agent.name
    for alone, fitting in {"seeds": (1,), "devices": (1, "auto")}.items():
        if getattr(config, alone) not in fitting:
            raise UserError(
                f"{alone} must be 1, not {getattr(config, alone)}: {name} brings its own training loop, for one "
                "seed and one device"
            )
    plain = dict(_flat(yaml.safe_load(to_yaml(Config(config.agent)))))
    for key, value in _flat(yaml.safe_load(to_yaml(config))):
        if key.startswith(NOT_FOR_GUESTS) and value != plain[key]:
            raise UserError(
                f"{key} has no part in the training of {name}, which brings its own loop, but is {value}; leave it out"
            )


def _check_any(config: Config[Any]) -> None:
    """Check what every run has."""
    _check_counts({
        "steps": config.steps,
        "num_envs": config.num_envs,
        "env.action_repeat": config.env.action_repeat,
        "env.time_limit": config.env.time_limit,
        "evaluation.every": config.evaluation.every,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep": config.checkpoint.keep,
    })
    _check_counts({"evaluation.episodes": config.evaluation.episodes}, MAX_EPISODES)
    limit, longest = config.episode_limit, config.env.time_limit
    if limit is not None and not 1 <= limit <= longest:
        raise UserError(f"episode_limit must lie between 1 and env.time_limit, {longest}, not be {limit}")
    each = config.num_envs * config.env.action_repeat
    if each > MAX_AT_ONCE:
        raise UserError(
            f"num_envs {config.num_envs} with env.action_repeat {config.env.action_repeat} are {each} env steps at "
            f"once, of which there may be {MAX_AT_ONCE}"
        )
    _check_seed(config.seed)
    for key, value in _flat(to_dict(config)):
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{key} must be a finite number, not {number}")


def _check_counts(counts: dict[str, int], most: int = MAX_STEPS) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1, not {value}")
        if value > most:
            raise UserError(f"{name} must be at most {most}, not {value}")


def check_evaluation(episodes: int, seed: int) -> None:
    """Check what an evaluation over fresh episodes is asked for.

    Raises:
        UserError: no episodes, or a seed out of its range.
    """
    _check_counts({"episodes": episodes}, MAX_EPISODES)
    _check_seed(seed)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed must lie between 0 and {2**32 - 1}, not be {seed}")


def _check_epoch(config: Config[Any]) -> None:
    """Check that epochs are whole vector steps, and that learning begins with a whole sequence in the replay."""
    n = config.num_envs
    if config.epoch % n:
        fitting = max(1, round(config.epoch / n)) * n
        raise UserError(f"epoch {config.epoch} must be a multiple of num_envs {n}; the nearest is {fitting}")
    needed = config.replay.batch_length * n
    if config.prefill < needed:
        raise UserError(
            f"prefill {config.prefill} is too short for one sequence of replay.batch_length "
            f"{config.replay.batch_length} in each of {n} environments; it needs at least {needed}"
        )
    env_steps = config.epoch * config.env.action_repeat
    if env_steps > MAX_AT_ONCE:
        raise UserError(
            f"epoch {config.epoch} with env.action_repeat {config.env.action_repeat} are {env_steps} env steps, of "
            f"which an epoch may have {MAX_AT_ONCE}"
        )


def _check_updates(config: Config[Any]) -> None:
    """Check that the run's updates can be counted."""
    ratio = config.updates_per_vector_step
    if not ratio:
        raise UserError(
            f"train_ratio {config.train_ratio} is less than one update in {2**30} vector steps; take a larger one"
        )
    updates = int(ratio * config.steps / (config.num_envs * config.env.action_repeat))
    if updates > MAX_STEPS:
        raise UserError(
            f"train_ratio {config.train_ratio} is more than {MAX_STEPS} updates in {config.steps} env steps, which "
            "cannot be counted; take a smaller one"
        )


def check_memory(config: Config[Any], template: TrainState) -> str:
    """Check that the replay fits, and return a line that says what it takes.

    Args:
        config: the experiment.
        template: the run's state as ``jax.ShapeDtypeStruct``.

    Raises:
        UserError: it does not; the sentence names a capacity that would.
    """
    # Of several seeds each has a ring, side by side in one array: a row is then a step of all of them.
    seeds = config.seeds > 1
    row_of = lambda x: (x.shape[0], *x.shape[2:]) if seeds else x.shape[1:]
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(row_of(x), x.dtype), template.replay.data)
    mesh, on_cpu = devices.mesh(config), jax.default_backend() == "cpu"
    # The devices of a CPU share their memory.
    parts = 1 if mesh is None or on_cpu else mesh.size
    main = memory.host_bytes(Path("/"))
    line = memory.check(
        config.replay, config.num_envs, row, parts * memory.available_bytes(), None if on_cpu else main
    )
    # A save writes one more copy and reads it back; what is split, or on an accelerator, is brought together first, as
    # frames are that an accelerator has on the host.
    copies = 3 + (on_cpu and mesh is not None)
    memory.check_saving(config.replay, config.num_envs, row, copies, main, apart=not on_cpu)
    return line


def check_same(saved: str, config: Config[Any]) -> None:
    """Check that a run goes on with the config it was saved with.

    Args:
        saved: the saved config as YAML.
        config: the config to go on with; the fields in ``MAY_CHANGE`` may differ.

    Raises:
        UserError: naming the first field that differs; or the saved one is no config.
    """
    was, now = (dict(_flat(yaml_file.parse("the checkpoint's config.yaml", x))) for x in (saved, to_yaml(config)))
    was = up_to_date(was)
    for key in [*was, *(key for key in now if key not in was)]:
        before = was.get(key)
        if before != now.get(key) and not key.startswith(MAY_CHANGE):
            raise UserError(
                f"the checkpoint was saved with {key} = {before}, not {now.get(key)}; a run goes on with its own "
                "config, of which only steps, max_faults, report, devices, fsdp, replay.frames, evaluation and "
                "checkpoint may change"
            )


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
