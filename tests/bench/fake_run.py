#!/usr/bin/env python3
"""Stands in for a Python that runs `-m mbrl train EXPERIMENT --run_dir FOLDER`: writes a run's first metrics and waits.

It is faster where the compilation cache has been filled by an earlier call.
"""

import os
import sys
import time
from pathlib import Path

if os.environ.get("FAKE_RUN_FAILS"):
    sys.exit("no such thing")
assert sys.argv[1:4] == ["-m", "mbrl", "train"]
assert "train_ratio" in Path(sys.argv[4]).read_text()
cache, folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]), Path(sys.argv[6])
pause = 0.4 if cache.exists() else 0.8
cache.mkdir(exist_ok=True)
folder.mkdir()
with open(folder / "metrics.jsonl", "w") as log:
    for line in ('{"step": 1, "run/updates": NaN}', '{"step": 2, "run/updates": 1.0}', "{"):
        time.sleep(pause)
        log.write(line if line == "{" else f"{line}\n")
        log.flush()
time.sleep(60)
