#!/usr/bin/env bash
# Installs, then runs the tests.
#
#   bash tests/run.sh [--all] [PYTEST OPTION ...]
#
#   --all   the long ones, too: kill chains, clusters, images
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
exec python -m pytest "${all[@]}" "$@" tests
