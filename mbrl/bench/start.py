"""How long a person waits: from the start of the process to the first metric and to the first update."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mbrl.core.errors import UserError
from mbrl.runner.config import Config, to_yaml

_LIMIT = 600.0  # seconds


def measure(config: Config[Any]) -> dict[str, Any]:
    """Start a run twice, with an empty compilation cache and with what the first start left in it.

    Args:
        config: the experiment; its first update is made to come with the first epoch of learning.

    Returns:
        seconds to the first line of metrics and to the first that an update was part of, cold and warm.

    Raises:
        UserError: the run ended before its first update.
    """
    replay = config.replay
    soon = dataclasses.replace(
        config,
        steps=1_000_000,
        prefill=replay.batch_length * config.num_envs,
        epoch=replay.batch_length * config.num_envs,
        # One update an epoch.
        train_ratio=replay.batch_size / config.num_envs,
    )
    with tempfile.TemporaryDirectory(prefix="mbrl-start-") as name:
        folder = Path(name)
        experiment = folder / "start.yaml"
        experiment.write_text(to_yaml(soon), encoding="utf-8")
        cold, warm = (_start(experiment, folder / "cache", folder / run) for run in ("cold", "warm"))
    return {
        "piece": "start",
        "ms": round(warm[1] * 1e3),
        "metric_ms": round(warm[0] * 1e3),
        "beside": "cold",
        "cold_ms": round(cold[1] * 1e3),
        "ratio": round(cold[1] / warm[1], 3),
        "cold_metric_ms": round(cold[0] * 1e3),
    }


def _start(experiment: Path, cache: Path, run_dir: Path) -> tuple[float, float]:
    """Return the seconds to the first metric and to the first update of a process of its own, which is then ended."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "mbrl", "train", str(experiment), "--run_dir", str(run_dir)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    first = None
    try:
        while (now := time.perf_counter() - begin) < _LIMIT and process.poll() is None:
            rows = _rows(run_dir / "metrics.jsonl")
            first = now if rows and first is None else first
            if first is not None and any(row.get("run/updates", 0) > 0 for row in rows):
                return first, now
            time.sleep(0.02)
    finally:
        process.kill()
        _, said = process.communicate()
    raise UserError(f"the run that was to be timed ended before its first update: {said.strip()[-300:]}")


def _rows(metrics: Path) -> list[dict[str, Any]]:
    if not metrics.exists():
        return []
    return [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines(keepends=True) if "\n" in line]
