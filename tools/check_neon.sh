#!/usr/bin/env bash
# check_neon.sh: builds the codec room for aarch64, runs its tests and golden frames under qemu, and compares a hash
# of all that every codec of the registry writes with the one from this machine. Skips, visibly, where the
# cross-compiler or qemu cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

cross=aarch64-linux-gnu-g++
emulator=qemu-aarch64
have() { command -v $cross > /dev/null && command -v $emulator > /dev/null; }
if ! have && command -v apt-get > /dev/null; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  install=("${as_root[@]}" apt-get install -y -q g++-aarch64-linux-gnu qemu-user)
  echo "installing g++-aarch64-linux-gnu and qemu-user, which the check of NEON needs"
  "${install[@]}" > /dev/null 2>&1 ||
    { "${as_root[@]}" apt-get update -q > /dev/null && "${install[@]}" > /dev/null; } || true
fi
if ! have; then
  echo "SKIPPED: NEON is not checked. Install g++-aarch64-linux-gnu and qemu-user (Debian, Ubuntu)." >&2
  exit 0
fi
bash tools/ensure_doctest.sh

# build <folder> <cmake arguments...>: the codec room, its tests and the digest
build() {
  local folder=$1
  shift
  cmake -S . -B "$folder" -GNinja -DGW_PYTHON=OFF -DGW_TESTS=ON "$@" ${GRADWIRE_CMAKE_ARGS:-} > /dev/null
  cmake --build "$folder" --target gw_codec_tests gw_codec_digest -j2
}
build build/codec
build build/neon -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$cross

run=($emulator -L /usr/aarch64-linux-gnu)
echo "gw_codec_tests under $emulator"
timeout 100 "${run[@]}" build/neon/tests/cpp/gw_codec_tests
build/codec/tests/cpp/gw_codec_digest tests/golden > build/codec/digest.txt
timeout 100 "${run[@]}" build/neon/tests/cpp/gw_codec_digest tests/golden > build/neon/digest.txt
diff build/codec/digest.txt build/neon/digest.txt ||
  { echo "NEON writes other bytes than $(uname -m) (left: here, right: aarch64)" >&2; exit 1; }
echo "$(wc -l < build/neon/digest.txt) codecs write the same bytes with NEON as on $(uname -m)"
