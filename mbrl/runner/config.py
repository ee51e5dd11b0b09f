"""The whole experiment as one frozen, typed tree."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Generic, Literal, TypeVar

import yaml

from mbrl.envs.config import EnvConfig
from mbrl.replay.config import ReplayConfig

AgentConfig = TypeVar("AgentConfig")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved and how many saves are kept."""

    every: int = 10_000
    """Env steps between saves; the last one is always saved."""
    keep: int = 2
    """How many of the newest saves are kept, beside the best one."""


# Settings that came later, of all agents and of some, and what a run does that was saved without them.
_CAME_LATER: dict[str, Any] = {"episode_limit": None, "replay.frames": "device", "report": True}
_CAME_LATER_TO = {
    "mbpo": {
        "agent.worldmodel.beta": 0.0,
        "agent.worldmodel.discount_of": "step",
        "agent.behaviour.lam": 0.0,
        "agent.behaviour.whiten": False,
    },
    "pets": {"agent.worldmodel.beta": 0.0, "agent.worldmodel.discount_of": "step"},
}


# The same of planners, by their names and without the `agent.planner.` before each.
_CAME_LATER_TO_PLANNER: dict[str, dict[str, Any]] = {}


def came_later(agent: str, planner: str = "") -> dict[str, Any]:
    """Return the settings, by dotted key, that saved runs of an agent may lack, and what those runs do."""
    planners = {f"agent.planner.{key}": value for key, value in _CAME_LATER_TO_PLANNER.get(planner, {}).items()}
    return _CAME_LATER | _CAME_LATER_TO.get(agent, {}) | planners


def up_to_date(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved run's settings, by dotted key, as it would be saved now: all there, under the keys of today."""
    moved = _moved(settings) if settings.get("agent.name") == "muzero" else settings
    return came_later(str(moved.get("agent.name")), str(moved.get("agent.planner.name"))) | dict(moved)


def _moved(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return MuZero's settings, whose planner was a name that the settings of both it may have stood beside."""
    named, groups = settings.get("agent.planner"), ("agent.mctx.", "agent.soft_tree.")
    if not isinstance(named, str):
        return settings
    own = {f"agent.planner.{key.rpartition('.')[2]}": key for key in settings if key.startswith(f"agent.{named}.")}
    kept = {key: value for key, value in settings.items() if key != "agent.planner" and not key.startswith(groups)}
    return kept | {now: settings[before] for now, before in own.items()}


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation while training: own environments, own seeds, the policy's mode."""

    every: int = 5_000
    """Env steps between evaluations."""
    episodes: int = 8
    """Episodes per evaluation."""
    gap: bool = True
    """Log `eval/exploitation_gap`, imagined minus real return; it costs a program of its own to compile."""


@dataclasses.dataclass(frozen=True)
class Config(Generic[AgentConfig]):
    """An experiment: everything that decides its numbers."""

    agent: AgentConfig
    """The agent: its world model, its behaviour, its optimiser."""
    env: EnvConfig = EnvConfig()
    """The environment."""
    replay: ReplayConfig = ReplayConfig()
    """The replay."""
    evaluation: EvalConfig = EvalConfig()
    """Evaluation while training."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""
    seed: int = 0
    """Every random number of the run comes from it."""
    seeds: int = 1
    """Seeds trained in one program: `seed`, `seed + 1`, and so on."""
    devices: int | Literal["all", "auto"] = "auto"
    """Devices the run is split over, or `all` there are: seeds if there are several, else environments and batches.
    `auto` is one, on several hosts all, and for several seeds on a CPU, of which each core then counts as a device, as
    many as divide the seeds."""
    fsdp: bool = False
    """Whether parameters and what the optimiser remembers are split over the devices too, of which there are several,
    and the parameters brought together for each update: for models that hardly fit whole on each."""
    steps: int = 100_000
    """Env steps to train for; held actions count every physics step."""
    run_dir: str = ""
    """The run's folder, which must not exist; by default `runs/<environment>-<agent>-<seed>-<time>`."""
    report: bool = True
    """Write `report.html` at the end; `mbrl report RUN_DIR` does later. An agent that plans is long at it."""
    num_envs: int = 8
    """Environments stepped together (N)."""
    episode_limit: int | None = None
    """Env steps after which an episode of training is cut short, so that more are begun (the discount stays 1);
    `null` for `env.time_limit`, which evaluation keeps."""
    train_ratio: float = 128.0
    """Replayed steps per agent step: updates per agent step = train_ratio / (batch_size * batch_length)."""
    prefill: int = 1_000
    """Agent steps of random actions before learning begins, rounded up to whole epochs."""
    epoch: int = 1_000
    """Agent steps per epoch: one jitted call, after which metrics are written."""
    max_faults: int = 100
    """Skipped updates and broken physics steps (NaN, Inf), of all seeds, that a run survives before it stops itself."""

    @property
    def training_env(self) -> EnvConfig:
        """The environment as it is trained in."""
        limit = self.env.time_limit if self.episode_limit is None else self.episode_limit
        return dataclasses.replace(self.env, time_limit=limit)

    @property
    def prefill_epochs(self) -> int:
        """Whole epochs of random actions."""
        return -(-self.prefill // self.epoch)

    @property
    def updates_per_vector_step(self) -> Fraction:
        """Updates per vector step, as a ratio that int32 can count with.

        Numerator times denominator stay below 2^31. It is exact where ``train_ratio`` asks for a short fraction, and
        else a few updates away over as many steps as can be counted.
        """
        exact = Fraction(self.train_ratio) * self.num_envs / (self.replay.batch_size * self.replay.batch_length)
        return exact.limit_denominator(min(2**30, max(1, math.isqrt(int(2**30 / exact)))))


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested dicts of plain values, for YAML."""
    return dataclasses.asdict(config)


def to_yaml(config: Config[Any]) -> str:
    """Return a config as YAML that runs again as it stands: every value is there, but the folder is a new one's."""
    return yaml.safe_dump(to_dict(dataclasses.replace(config, run_dir="")), sort_keys=False)
