"""What is compiled once is not compiled again by the next process."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys
import jax
from mbrl.cli import compilation
print(compilation.use_cache())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("/cache_hits")))
jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.ones((3, 5))).block_until_ready()
print(sum(hits))
"""


def start(home, **environment):
    """Run the program with its caches below ``home``; return the lines it printed."""
    clean = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=clean | {"XDG_CACHE_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_second_start_compiles_nothing(tmp_path):
    folder = tmp_path / "mbrl" / "xla"
    line, hits = start(tmp_path)
    assert line == f"compilation cache: {folder}, at most 2 GiB"
    assert hits == "0"
    kept = {path.name for path in folder.glob("*-cache")}
    assert kept
    assert int(start(tmp_path)[1]) == len(kept)
    assert {path.name for path in folder.glob("*-cache")} == kept


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("JAX_ENABLE_COMPILATION_CACHE", "false", "compilation cache: off"),
        ("JAX_COMPILATION_CACHE_DIR", "elsewhere", "compilation cache: elsewhere"),
    ],
)
def test_settings_of_jax_go_before(tmp_path, monkeypatch, name, value, line):
    monkeypatch.chdir(tmp_path)
    assert start(tmp_path, **{name: value})[0] == line
    assert not (tmp_path / "mbrl").exists()


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "mbrl").write_text("in the way")
    line, hits = start(tmp_path)
    assert line.startswith(f"compilation cache: off, for {tmp_path / 'mbrl' / 'xla'} cannot be made")
    assert hits == "0"
