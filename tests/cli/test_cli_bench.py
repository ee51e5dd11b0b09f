import importlib.util
import json
import os
from pathlib import Path

import pytest


@pytest.fixture
def bench():
    """The script as a module."""
    path = Path(__file__).parents[2] / "scripts/bench_learning.py"
    spec = importlib.util.spec_from_file_location("bench_learning", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_steps_to_goal_is_the_first_evaluation_that_reached_it(bench, tmp_path):
    lines = [{"step": 10}, {"step": 20, "eval/return_mean": 949.9}, {"step": 30, "eval/return_mean": None}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert bench.steps_to_goal(path, 950) is None
    later = [{"step": 40, "eval/return_mean": 950.0}, {"step": 50, "eval/return_mean": 999.0}]
    path.write_text("\n".join(map(json.dumps, lines + later)))
    assert bench.steps_to_goal(path, 950) == 40
    assert bench.steps_to_goal(tmp_path / "none", 950) is None


def test_the_table_keeps_failed_seeds(bench, tmp_path):
    rows = [
        bench.Row(0, "done", 1000.0, 0.0, 7500, 200.4),
        bench.Row(1, "done", 900.0, 31.25, 7500, 210.0),
        bench.Row(2, "train failed (1)", None, None, None, 3.0),
    ]
    bench.write(tmp_path, rows, 950.0, 20, "the command")
    text = (tmp_path / "table.md").read_text()
    assert "| 0 | done | 1000.0 ± 0.0 | 7,500 | 200 |" in text
    assert "| 1 | done | 900.0 ± 31.2 | 7,500 | 210 |" in text
    assert "| 2 | train failed (1) | - | - | 3 |" in text
    assert "1 of 3 seeds end at 950 or more; 2 reached it" in text
    assert "`the command`" in text
    assert (tmp_path / "table.csv").read_text().splitlines()[3] == "2,train failed (1),,,,3.0"


@pytest.mark.parametrize(("options", "cached"), [([], "false"), (["--warm"], None)])
def test_seeds_compile_for_themselves_unless_asked(bench, options, cached, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "")  # so that it is set back afterwards
    monkeypatch.delenv("JAX_ENABLE_COMPILATION_CACHE")
    seen = []

    def train(*args):
        seed, rest = args[1], args[-1]
        seen.append((seed, os.environ.get("JAX_ENABLE_COMPILATION_CACHE"), rest))
        return bench.Row(seed, "done", 1.0, 0.0, None, 1.0)

    monkeypatch.setattr(bench, "bench", train)
    assert bench.main(["quickstart", "--seeds", "3", "5", *options, "--steps", "8"]) == 0
    assert seen == [(3, cached, ["--steps", "8"]), (5, cached, ["--steps", "8"])]
