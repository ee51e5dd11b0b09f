"""All environments by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from dm_env import specs

from mbrl.core.errors import UserError, unknown
from mbrl.envs import boxes, brax, classic, playground, probes, probes_moving
from mbrl.envs.base import Environment, VectorEnvironment
from mbrl.envs.brax import BraxEnv
from mbrl.envs.config import EnvConfig
from mbrl.envs.dm import HostEnv, HostVectorEnv
from mbrl.envs.pixels import PicturesOnly, Pixels
from mbrl.envs.playground import PlaygroundEnv
from mbrl.envs.vector import VectorEnv
from mbrl.envs.wrappers import ActionRepeat, RescaleAction, TimeLimit, innermost

# Height and width of the largest picture: a hundred megabytes while it is prepared to be drawn.
MAX_PIXELS = 4096

# A constructor takes nothing, or what stands behind the @ of `brax/hopper@mjx`. Yours is one line, here or in a
# notebook, that puts MyEnv under "mine/foo".
ENVS: dict[str, Callable[..., Environment] | HostEnv] = {
    **{f"boxes/{name}": partial(boxes.variant, name) for name in boxes.WORLDS},
    **{f"brax/{name}": partial(BraxEnv, name) for name in brax.NAMES},
    "classic/cartpole": classic.CartPole,
    "classic/pendulum": classic.Pendulum,
    **{f"dmc/{name}": partial(PlaygroundEnv, name) for name in playground.NAMES},
    "probe/action": probes.Action,
    "probe/cue": probes.Cue,
    "probe/delayed": probes.delayed,
    "probe/discrete": probes.Discrete,
    "probe/exact": probes.Exact,
    "probe/goal": probes_moving.Goal,
    "probe/joints": probes_moving.Joints,
    "probe/reward": probes.Reward,
    "probe/sight": probes.Sight,
    "probe/tasks": probes.Tasks,
    "probe/terminal": probes.Terminal,
}


def names() -> list[str]:
    """Return the names of all environments, sorted; those of Brax also take a backend, as in ``brax/hopper@mjx``."""
    return sorted(ENVS)


def make(config: EnvConfig) -> Environment:
    """Return one environment, ready to use: actions in [-1, 1] or discrete, held actions, a time limit, pictures.

    Raises:
        UserError: when the config names no environment or backend, asks for an impossible repeat, limit or picture,
            or the environment runs in Python and so only comes as a vector.
    """
    _check(config)
    entry, variant = _find(config.name)
    if isinstance(entry, HostEnv):
        raise UserError(f"environment {config.name!r} runs in Python, so it has no single form: use make_vector")
    env = TimeLimit(entry() if variant is None else entry(variant), config.time_limit)
    if config.action_repeat > 1:
        env = ActionRepeat(env, config.action_repeat)
    if not isinstance(env.action_spec, specs.DiscreteArray):
        env = RescaleAction(env, config.name)
    if config.pixels:
        return Pixels(env, config.pixels, config.state, config.camera or None)
    return env if config.state else PicturesOnly(env, config.name)


def make_vector(config: EnvConfig, num_envs: int) -> VectorEnvironment:
    """Return ``num_envs`` environments that start over by themselves, whether pure or in Python.

    Raises:
        UserError: as for ``make``, and when ``num_envs`` is below 1.
    """
    entry, _ = _find(config.name)
    if not isinstance(entry, HostEnv):
        return VectorEnv(make(config), num_envs)
    check(config)
    return HostVectorEnv(entry.constructor, num_envs, config.action_repeat, config.time_limit, config.name)


def own_action(config: EnvConfig) -> specs.Array:
    """Return the spec of an environment's actions in its own units, before they are rescaled to [-1, 1].

    Raises:
        UserError: as for ``make``.
    """
    entry, _ = _find(config.name)
    if not isinstance(entry, HostEnv):
        return innermost(make(config)).action_spec
    check(config)
    one = entry.constructor(0)
    spec: Any = one.action_spec()
    one.close()
    return spec


def check(config: EnvConfig) -> None:
    """Check that there is such an environment, without building it.

    Raises:
        UserError: when the config names no environment, or asks for an impossible repeat, limit or picture.
    """
    _check(config)
    entry, _ = _find(config.name)
    if isinstance(entry, HostEnv) and config.pixels:
        raise UserError(
            f"environment {config.name!r} runs in Python, where nothing is drawn for it: leave env.pixels at 0 and let"
            " it observe its own pictures"
        )
    if isinstance(entry, HostEnv) and not config.state:
        raise UserError(f"environment {config.name!r} runs in Python, where nothing is hidden: leave env.state on")


def _check(config: EnvConfig) -> None:
    for field in ("action_repeat", "time_limit"):
        if getattr(config, field) < 1:
            raise UserError(f"env.{field} is {getattr(config, field)}, but must be at least 1")
    if not 0 <= config.pixels <= MAX_PIXELS:
        raise UserError(f"env.pixels is {config.pixels}, but must be from 1 to {MAX_PIXELS}, or 0 for no picture")
    if not config.pixels and config.camera:
        raise UserError(f"env.camera is {config.camera!r}, but no picture is taken: set env.pixels, for example to 64")


def _find(name: str) -> tuple[Any, str | None]:
    """Return the registry's entry and what stands behind the @, if anything."""
    base, at, variant = name.partition("@")
    if base.startswith("brax/"):
        brax.refuse_left_out(base.removeprefix("brax/"))
    if base not in ENVS:
        raise unknown("environment", base, ENVS)
    entry = ENVS[base]
    if at and (isinstance(entry, HostEnv) or not inspect.signature(entry).parameters):
        raise UserError(f"environment {base!r} has no variants: leave out '@{variant}'")
    return entry, variant if at else None
