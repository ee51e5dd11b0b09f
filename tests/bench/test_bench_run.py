"""The bench command, on the smallest shapes there are."""

import json
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.bench import pieces, start, timing
from mbrl.bench.pieces import Piece
from mbrl.cli.bench import BenchArguments, setting
from mbrl.cli.main import main
from mbrl.core.errors import UserError

SMALL = ["--size", "nano", "--batch_size", "2", "--batch_length", "4", "--horizon", "2", "--repeats", "9",
         "--seconds", "0", "--env", "probe/action"]


def bench(capsys, *words):
    assert main(["bench", *words, *SMALL, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_train_step_is_timed_beside_the_plain_one(capsys):
    row = bench(capsys, "train_step", "--obs", "vector", "--products")
    assert {"ms", "naive_ms", "share_of_peak", "ratio", "gflop", "mib", "compile_s", "peak_gflop_per_s"} <= row.keys()
    assert row["ms"] > 0
    assert row["naive_ms"] > 0
    assert row["products_ms"] > 0
    assert row["gflop"] > 0
    assert 0 < row["share_of_peak"] < 1
    assert row["calls"] == 3


def test_a_piece_and_its_profile(capsys, tmp_path):
    row = bench(capsys, "policy_step_16", "--profile", str(tmp_path))
    assert row["steps_per_s"] > 0
    assert (tmp_path / "policy_step_16" / "costliest.md").read_text().count("\n") > 3
    assert list(tmp_path.rglob("perfetto_trace.json.gz"))
    assert row["profile"]["costliest"]


def test_what_draws_is_told_under_its_own_names(capsys, monkeypatch):
    """On pieces that draw nothing: the real ones take long to compile."""
    drawn = lambda _, steps: Piece(jnp.sin, (jnp.zeros(4),), steps)
    for number, name in enumerate(("render", "boxes", "boxes_urchin"), 1):
        monkeypatch.setitem(pieces.PIECES, name, partial(drawn, steps=number * 1000))
    found = bench(capsys, "pixels")
    assert [row["piece"] for row in found["rows"]] == ["render", "boxes", "boxes_urchin"]
    assert found["render_fps"] == found["rows"][0]["steps_per_s"] > 0
    assert found["boxes_sps"] == found["rows"][1]["steps_per_s"]


def test_a_table_to_read(capsys):
    """Of a piece with an environment."""
    assert main(["bench", "collection", *SMALL, "--products"]) == 0
    said = capsys.readouterr().out
    assert "collection" in said
    assert "products ms" in said
    assert "GFLOP/s" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train_stp"], "unknown piece 'train_stp'; did you mean 'train_step'?"),
        (["--size", "2m"], "agent.size is '2m', but must be one of nano, 1m"),
        (["--repeats", "0"], "--repeats must be at least 1, not 0"),
        (["--obs", "pictures"], "--obs is 'pictures', but must be one of vector, image"),
        (["--env", "brax/hoper"], "did you mean 'brax/hopper'?"),
        (["planners", "--products"], "--products is about pieces of a training run, not about planners: leave it out"),
        (["serve", "--sessions", "0"], "--sessions must be from 1 to 10000, not 0"),
        (["train_step", "now"], "no place for 'now'"),
        (["train_step", "--batch_size", "0"], "replay.batch_size"),
        (["epoch", "--train_ratio", "nan"], "train_ratio must be a finite number, not nan"),
    ],
)
def test_bad_words_are_one_sentence(words, said, capsys):
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_memory_in_use_is_what_was_planned():
    """Two products wait for the third: with argument and result four matrices of 64 MiB."""
    x = jnp.ones((4096, 4096))
    compiled = timing.compile_once(lambda x: (x @ x) @ (x @ x.T), x)
    assert compiled.footprint.held == x.nbytes
    assert compiled.footprint.peak == pytest.approx(4 * x.nbytes, rel=0.01)
    measured = timing.peak_bytes(lambda: compiled.call(x), compiled.footprint.held)
    if measured is not None:  # where the machine can tell
        assert measured == pytest.approx(compiled.footprint.peak, rel=0.2)


def test_the_start_of_a_run_is_timed_cold_and_warm(monkeypatch, capsys):
    """On a run that is no run: a process that writes what a run would."""
    monkeypatch.setattr(start.sys, "executable", str(Path(__file__).with_name("fake_run.py")))
    row = bench(capsys, "start")
    assert 300 < row["metric_ms"] < row["ms"] < row["cold_ms"]
    assert row["cold_ms"] - row["cold_metric_ms"] > 300
    monkeypatch.setenv("FAKE_RUN_FAILS", "1")
    with pytest.raises(UserError, match=r"ended before its first update: no such thing"):
        start.measure(setting(BenchArguments()))


def test_functions_are_called_in_turn_and_the_first_round_is_not_counted():
    called = []
    times = timing.in_turn([lambda: called.append("a"), lambda: called.append("b")], repeats=5, seconds=60.0)
    assert called == ["a", "b"] * 6
    assert np.shape(times) == (2, 5)
    assert len(timing.in_turn([lambda: None], repeats=5, seconds=0.0)[0]) == 3
