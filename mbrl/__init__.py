"""Model-based reinforcement learning in JAX.

    >>> import mbrl
    >>> config = mbrl.load_config("quickstart", {"seed": 3})
    >>> run = mbrl.train(config)

What stands here is imported when it is first used, so `import mbrl` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mbrl.version import __version__

if TYPE_CHECKING:
    from mbrl.cli.config import load as load_config
    from mbrl.cli.export import torch_policy as torch_policy
    from mbrl.deploy.load import load_policy as load_policy
    from mbrl.runner.restore import evaluate as evaluate
    from mbrl.runner.train import train as train

__all__ = ["__version__", "evaluate", "load_config", "load_policy", "torch_policy", "train"]

_HOMES = {
    "evaluate": ("mbrl.runner.restore", "evaluate"),
    "load_config": ("mbrl.cli.config", "load"),
    "load_policy": ("mbrl.deploy.load", "load_policy"),
    "torch_policy": ("mbrl.cli.export", "torch_policy"),
    "train": ("mbrl.runner.train", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mbrl' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
