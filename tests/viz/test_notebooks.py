"""The notebook that plans runs as it stands and comes to what it says; the other one trains, which takes minutes."""

import runpy
from pathlib import Path


def test_look_before_acting():
    """Its own assertions are the test: a line that is not to be crossed is not."""
    seen = runpy.run_path(str(Path(__file__).parents[2] / "notebooks/look_before_acting.py"))
    assert {path.name for path in seen["folder"].iterdir()} == {"fan.png", "tree.png", "kept.png"}
