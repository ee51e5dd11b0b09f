"""Libraries that only some people need: imported where they are used, and one sentence where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from mbrl.core.errors import UserError


def torch() -> Any:
    """Return PyTorch.

    Raises:
        UserError: it is not installed.
    """
    return _load("torch", "torch", "PyTorch")


def web() -> tuple[Any, Any]:
    """Return Starlette and uvicorn.

    Raises:
        UserError: one is not installed.
    """
    return _load("starlette", "serve", "Starlette"), _load("uvicorn", "serve", "uvicorn")


def _load(module: str, extra: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{name} is not installed, which this needs: pip install 'mbrl[{extra}]'") from error
