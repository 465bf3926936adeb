#!/usr/bin/env bash
# Compiles csrc/cuda with nvcc, for GRADWIRE_CUDA_ARCHS or else all architectures of a release, links the plug-in, and fails
# if a kernel spills registers to memory or the plug-in exports more than its door. Without nvcc it says so and passes.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH:/usr/local/cuda/bin"

if ! command -v nvcc > /dev/null; then
  echo "no nvcc: the CUDA kernels are not compiled here (the simulator still runs them)"
  exit 0
fi
build=build/cuda
cmake -S . -B "$build" -GNinja -DCMAKE_BUILD_TYPE=Release -DGW_PYTHON=OFF -DGW_CUDA=ON -DGW_PTXAS_VERBOSE=ON \
  ${GRADWIRE_CUDA_ARCHS:+"-DGW_CUDA_ARCHS=$GRADWIRE_CUDA_ARCHS"} ${GRADWIRE_CMAKE_ARGS:-} > /dev/null
# from scratch: what is not compiled is not reported
cmake --build "$build" --target clean > /dev/null
cmake --build "$build" --target gradwire_cuda -j2 > "$build/ptxas.log" 2>&1 || { cat "$build/ptxas.log"; exit 1; }
python3 tools/check_spills.py "$build/ptxas.log"
exported=$(nm -D --defined-only "$build/libgradwire_cuda.so" | awk '$2 ~ /[TDBR]/ {print $3}')
[ "$exported" = gradwire_cuda_table ] || { echo "libgradwire_cuda.so exports more than its door: $exported"; exit 1; }
