"""Environments: one door, adapters, wrappers, and the registry."""

from mbrl.envs.base import Environment, EnvState, VectorEnvironment
from mbrl.envs.config import EnvConfig
from mbrl.envs.dm import HostEnv, HostVectorEnv, to_dm_env
from mbrl.envs.pixels import Pixels
from mbrl.envs.registry import ENVS, make, make_vector, names, own_action
from mbrl.envs.vector import VectorEnv, VectorState
from mbrl.envs.wrappers import ActionRepeat, RescaleAction, TimeLimit, unwrap

__all__ = [
    "ENVS",
    "ActionRepeat",
    "EnvConfig",
    "EnvState",
    "Environment",
    "HostEnv",
    "HostVectorEnv",
    "Pixels",
    "RescaleAction",
    "TimeLimit",
    "VectorEnv",
    "VectorEnvironment",
    "VectorState",
    "make",
    "make_vector",
    "names",
    "own_action",
    "to_dm_env",
    "unwrap",
]
