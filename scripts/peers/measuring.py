"""Runs one measurement in an environment and reads the JSON line that it prints."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from environments import surroundings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Alike for both sides: no GPU, nothing compiled in an earlier run, and freed memory kept for the next call.
ALIKE = {
    "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "JAX_ENABLE_COMPILATION_CACHE": "false",
    "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MPLBACKEND": "Agg",
}


def run(python: Path, words: list[str], seconds: float) -> dict[str, Any]:
    """Run ``scripts/peers/<words>`` and return what it printed; ``{"error": reason}`` where it failed.

    Everything it starts ends with it, at the latest after ``seconds``.
    """
    command = [str(python), str(HERE / words[0]), *words[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                          env=surroundings() | ALIKE, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {seconds:.0f} s"}
        finally:
            end(process)
    if process.returncode:
        said = [line.strip() for line in err.splitlines() if line.strip()]
        return {"error": f"exit code {process.returncode}: {said[-1] if said else 'it said nothing'}"}
    try:
        return json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": "it printed no result"}


def end(process: subprocess.Popen[str]) -> None:
    """End the process and all that it started and left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
