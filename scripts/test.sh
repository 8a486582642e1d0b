#!/usr/bin/env bash
# Sets up and runs the tests: lint, types, layers, pytest. At most 12 minutes on 2 cores after set-up.
#   scripts/test.sh            everyday
#   scripts/test.sh --long     only what is too long for everyday
#   scripts/test.sh ARGS…      only pytest, with these arguments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(scripts/setup.sh --print-python)
export OMP_NUM_THREADS=1

# a process a core; a file's tests stay together, so that its fixtures are made once
spread=(-n auto --maxprocesses 8 --dist loadfile)

if [ "${1:-}" = --long ]; then
  shift
  exec "$python" -m pytest -m long "${spread[@]}" "$@"
fi
if [ $# -gt 0 ]; then exec "$python" -m pytest "$@"; fi

bin=$(dirname "$python")
echo "lint";   "$bin/ruff" check . && "$bin/ruff" format --check .
echo "types";  "$bin/mypy"
echo "layers"; "$bin/lint-imports" --no-logo 2>/dev/null || "$bin/lint-imports"
echo "tests";  exec "$python" -m pytest -q -m "not long" "${spread[@]}"
