#!/usr/bin/env bash
# Measures mbrl beside peers from the Python package index, in turn, and prints ratios with their spread.
# Example: bash scripts/bench_peers.sh --rounds 3 --json peers.json sheeprl brax-sac
# Exit codes: 0 ours ran, whatever became of the peers; 1 ours failed; 2 wrong arguments or no usable Python.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(bash scripts/find_python.sh)
exec "$python" scripts/peers/bench.py "$@"
