#!/usr/bin/env bash
# Installs, then runs the tests.
#
#   bash tests/run.sh [--all] [PYTEST OPTION OR FILE ...]
#
#   --all   the long ones, too: kill chains, clusters, images
#
# PYTEST OPTIONs come last, and win: -n 0 runs one test after the other, as debuggers need it; a file runs alone.
set -euo pipefail
cd "$(dirname "$0")/.."

all=()
if [ "${1:-}" = --all ]; then
    shift
else
    all=(-m "not long and not cluster")
fi

bash launch/install.sh --dev
bash launch/system-packages dataset-fashion-mnist
. "${VENV:-.venv}/bin/activate"
export CUDA_VISIBLE_DEVICES= # equal on every machine, and more workers than GPUs
ruff check .
ruff format --check .
# Several files at a time, each in one process: much of what is tested waits, for launchers, limits and links.
cores=$(nproc)
exec python -m pytest -n $((cores < 4 ? cores : 4)) --dist loadfile "${all[@]}" "$@"
