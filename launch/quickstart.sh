#!/usr/bin/env bash
# From a fresh machine to a trained network: installs, packs Fashion-MNIST, trains on 2 workers, prints the accuracy.
#
#   bash launch/quickstart.sh
#
# Leaves the run in runs/quickstart and the data in data/fashion-mnist. Run again, it trains again; the rest is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

bash launch/install.sh
. "${VENV:-.venv}/bin/activate"

if [ ! -d data/fashion-mnist ]; then
    bash launch/system-packages dataset-fashion-mnist
    hvd-imagenet data fashion-mnist data/fashion-mnist
fi

if [ -d runs/quickstart ]; then
    earlier=runs/quickstart-$(date -r runs/quickstart +%Y%m%d-%H%M%S)
    mv runs/quickstart "$earlier"
    echo "The earlier run is now $earlier"
fi

# Two workers need two GPUs, or none.
if nvidia-smi -L >/dev/null 2>&1 && [ "$(nvidia-smi -L | wc -l)" -lt 2 ]; then
    export CUDA_VISIBLE_DEVICES=
fi

# job.sh: Ctrl-C saves and ends; run horovodrun again with --resume --run runs/quickstart to go on.
# TF_CPP_MIN_LOG_LEVEL: horovodrun looks at every framework, and TensorFlow talks. lo: all workers are here.
TF_CPP_MIN_LOG_LEVEL=3 bash launch/job.sh horovodrun -np 2 --gloo --network-interface lo \
    hvd-imagenet train --config fashion_mnist --data.path data/fashion-mnist --run runs/quickstart

python - <<'END'
import json
result = json.load(open("runs/quickstart/result.json"))
print(f"Validation top-1 {result['val_top1']:.2%} after {result['epochs']:.0f} epochs "
      f"on {result['workers']} workers in {result['wall_seconds']:.0f} s: runs/quickstart/result.json")
END
