#!/usr/bin/env bash
# Installs everything hvd_imagenet needs into .venv of this checkout. A second run takes seconds.
#
#   bash launch/install.sh [--frameworks torch,keras] [--cpu | --gpu] [--dev]
#
#   --frameworks LIST  torch, keras, or torch,keras (default on a CPU: both; on a GPU: torch, because
#                      one Horovod build serves one CUDA major version, and the two frameworks use different ones)
#   --cpu, --gpu       what to build for (default: --gpu if nvidia-smi finds one)
#   --dev              the test tools, too
#
# Environment: PYTHON (default python3), VENV (default .venv of this checkout),
# HVD_IMAGENET_CACHE (default ~/.cache/hvd_imagenet: built Horovod wheels are kept there and reused).
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "error: $1" >&2; shift; printf '       %s\n' "$@" >&2; exit 1; }

frameworks=
device=cpu
! nvidia-smi -L >/dev/null 2>&1 || device=gpu
dev=
while [ $# -gt 0 ]; do
    case "$1" in
        --frameworks) [ $# -gt 1 ] || fail "--frameworks needs a value" "Give torch, keras, or torch,keras."; frameworks=$2; shift ;;
        --frameworks=*) frameworks=${1#*=} ;;
        --cpu | --gpu) device=${1#--} ;;
        --dev) dev=[dev] ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown option $1" "The options are listed above." ;;
    esac
    shift
done
[ -n "$frameworks" ] || { [ $device = cpu ] && frameworks=torch,keras || frameworks=torch; }
case "$device:$frameworks" in
    *:torch | *:keras | cpu:torch,keras) ;;
    cpu:keras,torch) frameworks=torch,keras ;;
    gpu:torch,keras | gpu:keras,torch)
        fail "PyTorch needs CUDA 13 and TensorFlow CUDA 12: no one Horovod build serves both" \
             "Make two environments: VENV=.venv-torch with --frameworks torch, VENV=.venv-keras with --frameworks keras." ;;
    *) fail "--frameworks $frameworks" "Give torch, keras, or torch,keras." ;;
esac

python=${PYTHON:-python3}
venv=${VENV:-.venv}
cache=${HVD_IMAGENET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hvd_imagenet}
constraints=launch/constraints.txt

# 1. What Horovod is built with. Looked for as commands, so that a cluster's modules count, too.
packages=()
command -v g++ >/dev/null || packages+=(g++)
command -v make >/dev/null || packages+=(make)
command -v cmake >/dev/null || packages+=(cmake)
command -v mpicxx >/dev/null || packages+=(libopenmpi-dev)
command -v mpirun >/dev/null || packages+=(openmpi-bin)
command -v "$python" >/dev/null || packages+=(python3)
"$python" -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
"$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || packages+=(python3-dev)
bash launch/system-packages "${packages[@]}"

cuda=none
if [ "$device:$frameworks" = gpu:keras ]; then # for torch, NVIDIA's packages have all of it
    cuda=$(nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p') || cuda=
    [ "${cuda%%.*}" = 12 ] || fail "nvcc on the PATH: ${cuda:-none}; TensorFlow needs CUDA 12's" \
        "Install the CUDA toolkit 12 and add its bin folder to PATH, or on a cluster: module load cuda/12."
fi

# 2. The environment and the frameworks.
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed; $python is $("$python" -V)" "Name a newer one: PYTHON=/path/to/python3.12 bash launch/install.sh"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" ||
    fail "could not make the environment $venv" "Is the disk full, or the folder read-only? VENV=/other/place moves it."
pip() {
    local log; log=$(mktemp)
    "$venv/bin/python" -m pip --disable-pip-version-check install -c $constraints "$@" >"$log" 2>&1 || {
        tail -n 15 "$log" >&2; rm -f "$log"
        fail "pip install $* failed as shown above" "Check the network, the disk space, and that pip can reach a package index; then run again."
    }
    rm -f "$log"
}
version() { "$venv/bin/python" -c 'import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))' "$1" 2>/dev/null || echo none; }

first_time=
[ -e "$venv/horovod-build.txt" ] || first_time=" (some minutes the first time)"
echo "Installing $frameworks for $device into $venv$first_time ..."
requirements=('setuptools>=77' wheel packaging cffi cloudpickle psutil pyyaml)
case "$device:$frameworks" in
    cpu:torch) requirements+=(torch nvidia-dali-cuda130) ;;
    cpu:keras) requirements+=(tensorflow-cpu keras nvidia-dali-cuda130) ;;
    cpu:torch,keras) requirements+=(torch tensorflow-cpu keras nvidia-dali-cuda130) ;;
    gpu:torch) requirements+=(torch nvidia-dali-cuda130) ;;
    gpu:keras) requirements+=('tensorflow[and-cuda]' keras nvidia-dali-cuda120) ;;
esac
pip "${requirements[@]}"
if [ "$device:$frameworks" = gpu:torch ]; then
    cuda=$("$venv/bin/python" -c 'import torch; print(torch.version.cuda)')
    [ "$cuda" != None ] || fail "pip has found a PyTorch that is built without CUDA" \
        "Let pip take torch from PyPI, not from an index or a folder of CPU builds (pip config list), or give --cpu."
fi

# 3. Horovod, built once for each set of versions that its binary depends on.
horovod=$(sed -n 's/^horovod==//p' $constraints)
mpi=$(mpirun --version 2>/dev/null | head -n 1 | tr -c 'A-Za-z0-9.\n' '-')
key=$(printf '%s\n' "horovod $horovod" "frameworks $frameworks" "torch $(version torch)" "tensorflow $(version tensorflow-cpu) $(version tensorflow)" \
    "python $("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')" "mpi $mpi" "cuda $cuda" \
    "compiler $("${HVD_IMAGENET_CXX:-g++}" -dumpfullversion)" "nccl $(version nvidia-nccl-cu13) $(version nvidia-nccl-cu12)" "libc $(getconf GNU_LIBC_VERSION)" "wrapper $(cat launch/horovod-* | sha256sum)")
wheels=$cache/horovod-$(printf '%s' "$key" | sha256sum | cut -c1-16)
if [ "$(cat "$venv/horovod-build.txt" 2>/dev/null)" != "$key" ]; then
    mkdir -p "$wheels"
    printf '%s\n' "$key" >"$wheels/key.txt"
    (
        flock 9
        if ! ls "$wheels"/horovod-*.whl >/dev/null 2>&1; then
            HOROVOD_FRAMEWORKS=$frameworks HOROVOD_CUDA=$cuda bash launch/build-horovod.sh "$venv" "$horovod" "$wheels"
        fi
    ) 9>"$wheels/lock"
    pip --no-deps --force-reinstall "$wheels"/horovod-*.whl
    printf '%s\n' "$key" >"$venv/horovod-build.txt"
fi

# 4. This package.
pip --no-build-isolation -e ".$dev"
echo "Installed. Activate with: source $venv/bin/activate"
