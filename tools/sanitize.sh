#!/usr/bin/env bash
# sanitize.sh address|thread: builds the C++ tests with that sanitizer and runs them. Any report fails.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

kind=${1:?address or thread}
build=build/$kind
cmake -S . -B "$build" -GNinja -DCMAKE_BUILD_TYPE=Debug -DGW_PYTHON=OFF -DGW_TESTS=ON \
  -DGW_SANITIZE="$kind" ${GRADWIRE_CMAKE_ARGS:-} > /dev/null
targets=(gw_tests gw_planted gw_cuda_tests)
[ "$kind" = address ] && targets+=(gw_fuzz)
cmake --build "$build" --target "${targets[@]}" -j2

export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
run=("$build/tests/cpp/gw_tests")
# ThreadSanitizer of gcc 12 cannot place its shadow memory under the address randomisation of newer kernels.
if [ "$kind" = thread ] && command -v setarch > /dev/null; then
  run=(setarch "$(uname -m)" -R "${run[@]}")
fi
# The kernels between ranks, sound; then with bugs that this sanitizer has to find.
planted=("${run[@]/gw_tests/gw_planted}")
echo "gw_planted under the $kind sanitizer"
timeout 120 "${planted[@]}" none
if [ "$kind" = address ]; then bugs="out_of_bounds:heap-buffer-overflow"; else bugs="relaxed:data.race no_barrier:data.race"; fi
for bug in $bugs; do
  if timeout 120 "${planted[@]}" "${bug%%:*}" > "$build/planted.log" 2>&1 || ! grep -q "${bug##*:}" "$build/planted.log"; then
    cat "$build/planted.log"
    echo "the $kind sanitizer did not find the planted bug ${bug%%:*}"
    exit 1
  fi
done
echo "gw_tests under the $kind sanitizer"
timeout 600 "${run[@]}"
if [ "$kind" = address ]; then
  echo "gw_fuzz under the $kind sanitizer: hostile frames for ${GW_FUZZ_SECONDS:-20} s"
  # The frames that gcc 12 keeps for use-after-return are aligned to 32 bytes, but hold AVX-512 variables, which it
  # accesses as aligned to 64 (gcc bug 110027): without them.
  ASAN_OPTIONS=$ASAN_OPTIONS:detect_stack_use_after_return=0 timeout 600 "$build/tests/cpp/gw_fuzz" "${GW_FUZZ_SECONDS:-20}"
  echo "gw_cuda_tests under the $kind sanitizer"
  ASAN_OPTIONS=$ASAN_OPTIONS:detect_stack_use_after_return=0 timeout 300 "$build/tests/cpp/gw_cuda_tests"
fi
if [ "$kind" = thread ]; then
  echo "gw_cuda_tests under the $kind sanitizer: what happens between blocks"
  timeout 120 "${run[@]/gw_tests/gw_cuda_tests}" --test-suite="between blocks"
fi
