"""The modules of scripts/ and scripts/peers/, which are no packages."""

import importlib
import sys
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).parents[2] / "scripts"


def load(name, folder=SCRIPTS / "peers"):
    """The module of that name; its neighbours are found while it is imported."""
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        return importlib.import_module(name)
