"""The modules of scripts/peers, which are no package."""

import importlib
import sys
from pathlib import Path
from unittest import mock

FOLDER = Path(__file__).parents[2] / "scripts" / "peers"


def load(name):
    """The module of that name; its neighbours are found while it is imported."""
    with mock.patch.object(sys, "path", [str(FOLDER), *sys.path]):
        return importlib.import_module(name)
