#!/usr/bin/env bash
# Builds a Horovod wheel from the released source for the frameworks in an environment; called by install.sh.
#
#   HOROVOD_FRAMEWORKS=torch,keras HOROVOD_CUDA=none launch/build-horovod.sh VENV VERSION FOLDER
#
# HOROVOD_CUDA: none, or the version of CUDA that the framework is built for, such as 13.0. CUDA 13's compiler comes
# from NVIDIA's packages on PyPI and is removed when it has done its work; those of CUDA 12 lack nvcc: it is on the PATH.
# The wheel appears in FOLDER whole or not at all.
set -euo pipefail
venv=$1 version=$2 folder=$3
here=$(cd "$(dirname "$0")" && pwd)

without() { case ",$HOROVOD_FRAMEWORKS," in *",$1,"*) echo 0 ;; *) echo 1 ;; esac }
export LDFLAGS=-Wl,--strip-debug # nine tenths of its size
export HOROVOD_WITH_GLOO=1 HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_MXNET=1
if [ "$(without torch)" = 1 ]; then export HOROVOD_WITHOUT_PYTORCH=1; else export HOROVOD_WITH_PYTORCH=1; fi
if [ "$(without keras)" = 1 ]; then export HOROVOD_WITHOUT_TENSORFLOW=1; else export HOROVOD_WITH_TENSORFLOW=1; fi

scratch=$(mktemp -d "$folder/build.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@" >>"$folder/build.log" 2>&1 || failed; }
failed() {
    grep -E 'error|Error|Could NOT' "$folder/build.log" | head -n 10 >&2 || tail -n 20 "$folder/build.log" >&2
    echo "error: building Horovod failed; the whole log is $folder/build.log" >&2
    echo "       The lines above say what is missing: most often a compiler, cmake, or the MPI headers." >&2
    exit 1
}
: >"$folder/build.log"

case $HOROVOD_CUDA in
    none) ;;
    12.*) cuda=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")") ;;
    *)
        echo "Fetching the compiler of CUDA $HOROVOD_CUDA ..."
        pip install --target "$scratch/cuda" "cuda-toolkit[cccl,cudart,nvcc]==$HOROVOD_CUDA.*"
        cuda=$(echo "$scratch"/cuda/nvidia/cu*)
        ln -s lib "$cuda/lib64" # the names by which CMake looks for them
        ln -s "$(basename "$cuda"/lib/libcudart.so.*)" "$cuda/lib/libcudart.so"
        ;;
esac
if [ "$HOROVOD_CUDA" != none ]; then
    nccl=$("$venv/bin/python" -c 'import nvidia.nccl; print(list(nvidia.nccl.__path__)[0])')
    ln -sf libnccl.so.2 "$nccl/lib/libnccl.so"
    export PATH=$cuda/bin:$PATH # Horovod asks the first nvcc for its architectures
    export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_HOME=$nccl HOROVOD_NCCL_LINK=SHARED HOROVOD_CUDA_HOME=$cuda CUDA_HOME=$cuda
    # The framework's own, in any environment: not those of the machine. The second is CUDA 12's place, the third 13's.
    for library in nccl cuda_runtime "cu${HOROVOD_CUDA%%.*}"; do LDFLAGS+=" -Wl,-rpath,\$ORIGIN/../../nvidia/$library/lib"; done
fi

echo "Building Horovod $version (about four minutes on two cores; kept for the next time) ..."
# CMAKE_POLICY_VERSION_MINIMUM: CMake 4 refuses the policy level that Horovod's Gloo asks for.
export PATH="$(cd "$venv" && pwd)/bin:$PATH" CXX="$here/horovod-cxx" CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="-j$(nproc)"
pip wheel --no-build-isolation --no-deps --no-cache-dir --no-binary horovod -w "$scratch" "horovod==$version"
mv "$scratch"/horovod-*.whl "$folder/"
