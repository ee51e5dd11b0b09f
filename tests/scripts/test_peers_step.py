"""What times our train step beside the peers, on a step that is none: real ones take long to compile."""

import json

import jax.numpy as jnp
import pytest
from script_modules import load

from mbrl.bench.pieces import PIECES, Piece

step = load("mbrl_step")


def test_both_gradients_are_timed_and_told(monkeypatch, capsys):
    kept = []
    monkeypatch.setattr(step.heap, "keep_freed", lambda: kept.append(True))  # for this process's other tests
    monkeypatch.setattr(step, "parameters", lambda _: 7)
    for piece in step.VARIANTS.values():
        monkeypatch.setitem(PIECES, piece, lambda _: Piece(jnp.sin, (jnp.zeros((4, 4)),), method=lambda x: x @ x))
    assert step.main(["--calls", "3", "--seconds", "0"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert kept == [True]
    for variant in ("dynamics", "reinforce"):
        assert told[variant]["ms"] >= told[variant]["ms_min"] > 0
        assert (told[variant]["calls"], told[variant]["parameters"]) == (3, 7)
        assert told[variant]["gflop"] == pytest.approx(2 * 4**3 / 1e9)
    assert {"mbrl", "jax", "python"} <= told["versions"].keys()
