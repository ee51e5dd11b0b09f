#!/usr/bin/env bash
# Sets itself up from nothing, then runs every check: lint, types, layers, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -x .venv/bin/python ]; then
  python=$(bash scripts/find_python.sh)
  "$python" -m venv .venv
fi
# Kept beside what was installed, so that an unchanged set is not resolved again.
if ! cat requirements.txt pyproject.toml | cmp -s - .venv/installed-for-tests; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
  cat requirements.txt pyproject.toml > .venv/installed-for-tests
fi

# Tests draw no window and see no GPU.
export MPLBACKEND=Agg JAX_PLATFORMS=cpu
step() { printf '== %s\n' "$1"; shift; "$@"; }
step "lint" .venv/bin/ruff check .
step "types" .venv/bin/pyright --pythonpath .venv/bin/python
step "layers" .venv/bin/lint-imports
step "tests" .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
