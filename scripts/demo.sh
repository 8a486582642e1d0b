#!/usr/bin/env bash
# The main job without an exchange account or network: sandbox → collect → rank → convert → workflow → report.
#   scripts/demo.sh                       a generated market with a known signal
#   scripts/demo.sh --tape DIR            real Parquet (see --help for --venue and --interval)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(scripts/setup.sh --print-python)
exec "$python" -m qlib_crypto.cli demo "$@"
