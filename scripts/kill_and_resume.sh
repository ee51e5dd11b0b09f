#!/usr/bin/env bash
# Kills a run at random moments, lets it go on each time, and compares what it leaves with a run that was never killed.
# Example: bash scripts/kill_and_resume.sh --kills 100
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" scripts/kill_and_resume.py "$@"
