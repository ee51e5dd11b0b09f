"""Reads sweeps: YAML files under `experiments/sweeps/` that say which settings of an experiment are searched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from mbrl.cli import config as reader
from mbrl.cli import experiments, fields, parsing
from mbrl.core.errors import UserError, unknown
from mbrl.runner import yaml_file
from mbrl.runner.checks import check, is_guest
from mbrl.runner.config import Config
from mbrl.sweeps.spec import Kind, Range, Sampler, Scheduler, Sweep, ranked, words

__all__ = ["names", "ranked", "read"]

KIND = yaml_file.Kind(
    "a sweep", "experiments/sweeps/dreamer_lr.yaml", "space: {agent.optim.learning_rate: {log_uniform: [1e-5, 1e-3]}}"
)
_KEYS = (
    "name", "about", "experiment", "settings", "space", "metric", "mode", "trials", "parallel", "sampler", "scheduler",
    "seed", "slurm", "ray",
)


def names() -> dict[str, Path]:
    """Return every sweep's file under its name."""
    files = (experiments.folder() / experiments.SWEEPS).glob("*")
    return {path.stem: path for path in sorted(files) if path.suffix in experiments.SUFFIXES}


def read(given: str) -> Sweep:
    """Return a sweep by its name, or by the path of its file.

    Raises:
        UserError: there is none, or its file is not right; the sentence says where.
    """
    known = names()
    if given not in known and not Path(given).is_file():
        raise unknown("sweep", given, known)
    path = known.get(given) or Path(given)
    tree = {"metric": "eval/return_mean", "mode": "max", "trials": 10, "parallel": 1, "sampler": "tpe", "seed": 0,
            "scheduler": "none", "settings": {}, "slurm": {}, "ray": {}} | yaml_file.read_tree(path, KIND)
    fields.check_keys(str(path), tree, _KEYS)
    name = fields.text(f"{path}: name", tree.get("name"))
    if name != path.stem:
        raise UserError(f"{path}: name is {name!r}, but a sweep is called as its file: {path.stem!r}")
    experiment = fields.text(f"{path}: experiment", tree.get("experiment"))
    settings = dict(yaml_file.flatten(dict(_optional(f"{path}: settings", tree["settings"]))))
    space = {
        str(key): _range(f"{path}: space.{key}", one)
        for key, one in fields.mapping(f"{path}: space", tree.get("space")).items()
    }
    base = _base(path, experiment, settings)
    scheduler, grace, reduction = _scheduler(path, tree["scheduler"], base)
    sweep = Sweep(
        name=name,
        about=fields.text(f"{path}: about", tree.get("about")),
        experiment=experiment,
        settings=settings,
        space=space,
        metric=fields.text(f"{path}: metric", tree["metric"]),
        mode=fields.choice(f"{path}: mode", tree["mode"], ("max", "min")),
        trials=fields.whole(f"{path}: trials", tree["trials"]),
        parallel=fields.whole(f"{path}: parallel", tree["parallel"]),
        sampler=fields.choice(f"{path}: sampler", tree["sampler"], get_args(Sampler)),
        scheduler=scheduler,
        grace=grace,
        reduction=reduction,
        seed=_seed(f"{path}: seed", tree["seed"]),
        steps=base.steps,
        slurm=_optional(f"{path}: slurm", tree["slurm"]),
        ray=_resources(f"{path}: ray", tree["ray"]),
    )
    return _checked(path, sweep)


def _range(place: str, given: Any) -> Range:
    """Return what one setting may be, as written: a kind and its values."""
    one = fields.mapping(place, given)
    kind = next(iter(one))
    if len(one) > 1 or kind not in get_args(Kind):
        raise UserError(f"{place} is {parsing.short(str(given))}, but must be one of {', '.join(get_args(Kind))} and "
                        "its values, as in {log_uniform: [1e-5, 1e-3]}")
    values = one[kind]
    if not isinstance(values, list) or not values:
        raise UserError(f"{place}.{kind} is {parsing.short(str(values))}, but must be a list")
    if kind == "choice":
        for value in values:
            if not isinstance(value, str | int | float | bool):
                raise UserError(f"{place}.choice holds {parsing.short(str(value))}, but must hold numbers or text")
        return Range(kind, tuple(values))
    return Range(kind, _ends(f"{place}.{kind}", kind, values))


def _ends(place: str, kind: Kind, values: list[Any]) -> tuple[float | int, float | int]:
    """Return the lowest and the highest value, whole numbers where they must be."""
    if len(values) != 2:
        raise UserError(f"{place} has {len(values)} values, but must have the lowest and the highest")
    low, high = (fields.number(place, value) for value in values)
    said = f"{place} is {parsing.short(str(values))}, but must be"
    if not low < high:
        raise UserError(f"{said} the lowest below the highest")
    if kind == "log_uniform" and low <= 0:
        raise UserError(f"{said} above 0")
    if kind == "int" and (low != math.floor(low) or high != math.floor(high)):
        raise UserError(f"{said} whole numbers")
    return (int(low), int(high)) if kind == "int" else (low, high)


def _base(path: Path, experiment: str, settings: Mapping[str, Any]) -> Config[Any]:
    """Return the experiment with the settings that all trials share."""
    for key in ("run_dir", "seeds"):
        if key in settings:
            raise UserError(f"{path}: settings hold {key}, which the sweep itself decides; leave it out")
    try:
        config = reader.load(experiment, dict(settings))
        check(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if is_guest(config):
        raise UserError(f"{path}: {config.agent.name} brings its own training loop and cannot be swept")
    return config


def _scheduler(path: Path, given: Any, base: Config[Any]) -> tuple[Scheduler, int, int]:
    """Return the scheduler's name, its grace in env steps and its reduction."""
    tree = {"name": given} if isinstance(given, str) else dict(fields.mapping(f"{path}: scheduler", given))
    fields.check_keys(f"{path}: scheduler", tree, ("name", "grace", "reduction"))
    name = fields.choice(f"{path}: scheduler.name", tree.get("name"), get_args(Scheduler))
    every = base.evaluation.every
    grace = fields.whole(f"{path}: scheduler.grace", tree.get("grace", max(every, base.steps // 4)))
    reduction = fields.whole(f"{path}: scheduler.reduction", tree.get("reduction", 3))
    if name != "none" and not every <= grace < base.steps:
        raise UserError(
            f"{path}: scheduler.grace is {grace} env steps, but must lie between evaluation.every ({every}) and "
            f"steps ({base.steps})"
        )
    if reduction < 2:
        raise UserError(f"{path}: scheduler.reduction is {reduction}, but must be at least 2")
    if name == "pbt" and base.checkpoint.every != every:
        raise UserError(
            f"{path}: a population takes over saves that were evaluated, so checkpoint.every must equal "
            f"evaluation.every ({every}), not {base.checkpoint.every}"
        )
    return name, grace, reduction


def _checked(path: Path, sweep: Sweep) -> Sweep:
    """Return the sweep, with the trials of its grid, if every setting exists and takes the ends of its range."""
    for key, one in sweep.space.items():
        if key in sweep.settings or key in {"steps", "run_dir", "seeds"}:
            raise UserError(f"{path}: space holds {key}, which is the same in all trials; leave it out there")
        for value in one.values:
            try:
                check(reader.load(sweep.experiment, words(sweep, {key: value})))
            except UserError as error:
                raise UserError(f"{path}: space.{key}: {error}") from error
    return _with_grid(path, sweep) if sweep.sampler == "grid" else sweep


def _with_grid(path: Path, sweep: Sweep) -> Sweep:
    """Return a sweep of as many trials as its grid has points."""
    for key, one in sweep.space.items():
        if one.kind != "choice":
            raise UserError(f"{path}: a grid needs choices, but space.{key} is {one.kind}")
    if sweep.scheduler == "pbt":
        raise UserError(f"{path}: a population draws its settings and has no grid; take sampler random")
    return sweep._replace(trials=math.prod(len(one.values) for one in sweep.space.values()))


def _optional(place: str, given: Any) -> Mapping[str, Any]:
    return fields.mapping(place, given) if given else {}


def _resources(place: str, given: Any) -> Mapping[str, float | int]:
    """Return how many processors and GPUs each of Ray's trials takes."""
    tree = {"cpu": 1, "gpu": 0} | dict(_optional(place, given))
    fields.check_keys(place, tree, ("cpu", "gpu"))
    gpu = fields.number(f"{place}.gpu", tree["gpu"])
    if gpu < 0 or (gpu > 1 and gpu != int(gpu)):
        raise UserError(f"{place}.gpu is {gpu:g}, but must be a whole number, or a part of one GPU such as 0.5")
    return {"cpu": fields.whole(f"{place}.cpu", tree["cpu"]), "gpu": gpu}


def _seed(place: str, given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**32:
        raise UserError(f"{place} is {parsing.short(str(given))}, but must be a whole number from 0 on")
    return given
