#!/usr/bin/env bash
# Builds a Horovod wheel from the released source for the frameworks in an environment; called by install.sh.
#
#   HOROVOD_FRAMEWORKS=torch,keras HOROVOD_DEVICE=cpu launch/build-horovod.sh VENV VERSION FOLDER
#
# The wheel appears in FOLDER whole or not at all.
set -euo pipefail
venv=$1 version=$2 folder=$3
here=$(cd "$(dirname "$0")" && pwd)

without() { case ",$HOROVOD_FRAMEWORKS," in *",$1,"*) echo 0 ;; *) echo 1 ;; esac }
export HOROVOD_WITH_GLOO=1 HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_MXNET=1
if [ "$(without torch)" = 1 ]; then export HOROVOD_WITHOUT_PYTORCH=1; else export HOROVOD_WITH_PYTORCH=1; fi
if [ "$(without keras)" = 1 ]; then export HOROVOD_WITHOUT_TENSORFLOW=1; else export HOROVOD_WITH_TENSORFLOW=1; fi
if [ "$HOROVOD_DEVICE" = gpu ]; then
    nccl=$("$venv/bin/python" -c 'import nvidia.nccl; print(list(nvidia.nccl.__path__)[0])')
    ln -sf libnccl.so.2 "$nccl/lib/libnccl.so"
    cuda=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
    export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_HOME=$nccl HOROVOD_NCCL_LINK=SHARED HOROVOD_CUDA_HOME=$cuda CUDA_HOME=$cuda
fi

scratch=$(mktemp -d "$folder/build.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
echo "Building Horovod $version (about four minutes on two cores; kept for the next time) ..."
# CMAKE_POLICY_VERSION_MINIMUM: CMake 4 refuses the policy level that Horovod's Gloo asks for.
env PATH="$(cd "$venv" && pwd)/bin:$PATH" CXX="$here/horovod-cxx" CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="-j$(nproc)" \
    "$venv/bin/python" -m pip --disable-pip-version-check wheel --no-build-isolation --no-deps --no-cache-dir --no-binary horovod \
    -w "$scratch" "horovod==$version" >"$folder/build.log" 2>&1 || {
    grep -E 'error|Error' "$folder/build.log" | head -n 10 >&2 || tail -n 20 "$folder/build.log" >&2
    echo "error: building Horovod failed; the whole log is $folder/build.log" >&2
    echo "       The lines above say what is missing: most often a compiler, cmake, or the MPI headers." >&2
    exit 1
}
mv "$scratch"/horovod-*.whl "$folder/"
