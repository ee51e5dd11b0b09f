#!/usr/bin/env bash
# Prints a Python >= 3.11 that can make virtual environments; $PYTHON, if set, is the only candidate.
set -eu
candidates=(python3 python3.13 python3.12 python3.11 python)
if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
for candidate in "${candidates[@]}"; do
  # A pyenv shim may exist and yet refuse to run, so each candidate is run.
  if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    command -v "$candidate"
    exit 0
  fi
done
echo "no Python 3.11 or newer with its venv module among: ${candidates[*]}; install one, or set PYTHON to its path" >&2
exit 2
