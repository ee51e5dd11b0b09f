"""Brax's training loops, each loaded so that it runs on today's JAX and tells its policy to whoever listens.

Brax 0.14.2 calls a function that JAX has dropped since, and only one of its three loops shows the policy to a
callback; all three show it to Brax's own evaluation. So a loop is executed as a module of its own, which shares nothing
with the one that `import` gives, and in which these two names mean something else. Nothing of JAX or Brax is changed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
from jaxtyping import PyTree

from mbrl.core.types import Params
from mbrl.envs.physics import load, quiet

# What Brax's training makes other packages say; nothing else is silenced.
_NOTICES = ("optax.global_norm is deprecated",)
_TRAINING = "training/"
_CLOCK = ("sps", "walltime")  # the runner measures time itself


class Heard(NamedTuple):
    """What a loop shows of its policy."""

    mean: PyTree  # of observations, so far
    std: PyTree
    network: Params


Hear: TypeAlias = Callable[[Heard, dict[str, float]], None]


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Silence what Brax's training is known to say, and let it promote ranks as it was written to."""
    with quiet(), warnings.catch_warnings():
        for notice in _NOTICES:
            warnings.filterwarnings("ignore", message=notice)
        yield


def run(name: str, arguments: Mapping[str, Any], hear: Hear) -> None:
    """Run one of Brax's training loops to its end.

    Args:
        name: "sac", "ppo" or "apg".
        arguments: for its ``train``, but for what decides on wrappers, devices and evaluation.
        hear: is called with the policy, and with the loop's own metrics, each time that Brax would evaluate; also with
            the first policy, where there are no metrics.
    """
    with hushed():
        loop = _loop(f"brax.training.agents.{name}.train", hear)
        loop.train(**arguments, wrap_env_fn=lambda env, **_: env, max_devices_per_host=1)


def _loop(name: str, hear: Hear) -> types.ModuleType:
    """Execute a module of Brax once more, with ``jax`` and ``acting`` replaced in it alone."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is not there; mbrl needs brax 0.14")
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)
    acting = load("brax.training.acting")
    listening = {"Evaluator": lambda *_, **__: _Evaluator(hear)}
    replaced = {"jax": _Overlay(jax, {"device_put_replicated": _replicate}), "acting": _Overlay(acting, listening)}
    vars(loop).update(replaced)
    return loop


class _Overlay(types.ModuleType):
    """A module in which some names mean something else."""

    def __init__(self, module: types.ModuleType, names: Mapping[str, Any]) -> None:
        super().__init__(module.__name__)
        vars(self).update(vars(module) | dict(names))


class _Evaluator:
    """Stands where Brax's evaluator would: passes on what it is shown, and plays nothing."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear

    def run_evaluation(self, policy_params: Sequence[Any], training_metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        normaliser, network = policy_params[:2]
        named = {name.removeprefix(_TRAINING): value for name, value in training_metrics.items()}
        self._hear(
            Heard(normaliser.mean, normaliser.std, network),
            {name: float(value) for name, value in named.items() if name not in _CLOCK},
        )
        return training_metrics


def _replicate(tree: PyTree, devices: Sequence[Any]) -> PyTree:
    """Return the tree with a first axis over devices, as ``pmap`` leaves it, so that nothing compiles twice."""
    stacked = jax.tree.map(lambda leaf: jax.numpy.stack([leaf] * len(devices)), tree)
    return jax.pmap(lambda leaf: leaf, devices=devices)(stacked)
