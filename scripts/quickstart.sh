#!/usr/bin/env bash
# From nothing to a trained agent: makes .venv, installs the project, trains, evaluates, reports.
# Exit codes: 0 the agent balances (mean return >= 950 of 1000 over 20 fresh episodes), 1 it does not, 2 no usable Python.
set -euo pipefail
cd "$(dirname "$0")/.."

EPISODES=20
GOAL=950

# Runs a command with its output in a log, and shows that it lives: one line rewritten on a terminal, a plain one
# every ten seconds elsewhere.
watched() {
  local label=$1 log=$2; shift 2
  local begin=$SECONDS every=10 format='%s %4d s  %s\n'
  if [ -t 1 ]; then every=1 format='\r\033[K%s %4d s  %.60s'; fi
  "$@" >"$log" 2>&1 &
  local job=$!
  trap 'kill "$job" 2>/dev/null || true; exit 130' INT TERM
  while kill -0 "$job" 2>/dev/null; do
    local passed=$((SECONDS - begin))
    if [ $((passed % every)) -eq 0 ]; then printf "$format" "$label" "$passed" "$(tail -n 1 "$log" | cut -c 1-60)"; fi
    sleep 1
  done
  trap - INT TERM
  if [ -t 1 ]; then printf '\r\033[K'; fi
  if ! wait "$job"; then
    tail -n 5 "$log" >&2
    echo "$label failed after $((SECONDS - begin)) s; all that it said is in $log" >&2
    exit 1
  fi
  echo "$label done in $((SECONDS - begin)) s"
}

# Whether what the project asks for is what was noted when it was installed.
installed() { cat requirements.txt pyproject.toml | cmp -s - "$1"; }

install() {
  .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off "${pins[@]}" -e .
}

if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
  python=$(bash scripts/find_python.sh)
  echo "installing with $python into .venv"
  "$python" -m venv --clear .venv
fi
if ! installed .venv/installed && ! installed .venv/installed-for-tests; then
  pins=(-c requirements.txt)
  # The pins are tested on 3.11 and 3.12; a newer Python takes the ranges of pyproject.toml.
  if .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then pins=(); fi
  watched "installing" .venv/install.log install
  cat requirements.txt pyproject.toml > .venv/installed
fi

number=1
while [ -e "runs/quickstart-$number" ]; do number=$((number + 1)); done
run_dir=runs/quickstart-$number

.venv/bin/mbrl train experiments/quickstart.yaml --run_dir "$run_dir"
watched "evaluating" "$run_dir/eval.log" .venv/bin/mbrl eval "$run_dir" --episodes "$EPISODES" --json
result=$(tail -n 1 "$run_dir/eval.log")
echo "$result"
# Training has made the report; after a stop in between it would be missing.
[ -f "$run_dir/report.html" ] || .venv/bin/mbrl report "$run_dir"

echo
echo "run:    $run_dir"
echo "report: $run_dir/report.html"
.venv/bin/python - "$result" "$GOAL" "$EPISODES" <<'PYTHON'
import json
import sys

mean, goal, episodes = json.loads(sys.argv[1])["return_mean"], float(sys.argv[2]), sys.argv[3]
verdict = "at least" if mean >= goal else "LESS THAN"
sys.stdout.write(f"result: mean return {mean:.1f} over {episodes} fresh episodes, {verdict} {goal:.0f} of 1000\n")
sys.exit(mean < goal)
PYTHON
