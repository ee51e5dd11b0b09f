#!/usr/bin/env bash
# Trains an experiment over several seeds, one after another, and writes the table of what came of each.
# Example: bash scripts/bench_learning.sh quickstart --seeds 0 1 2 3 4 --goal 950 --out docs/results/quickstart
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" scripts/bench_learning.py "$@"
