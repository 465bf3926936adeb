#!/usr/bin/env bash
# check_isa_objects.sh <build dir>: fails if an object compiled for one instruction set offers the linker a function
# that is not that instruction set's own. The linker keeps one copy of an inline function, and if it keeps the AVX-512
# one, a CPU without AVX-512 dies of SIGILL in code that has nothing to do with codecs.
set -euo pipefail

build=${1:?build directory}
seen=0
for folder in "$build"/CMakeFiles/gw_isa_*.dir; do
  isa=${folder##*gw_isa_} isa=${isa%.dir}
  for object in "$folder"/csrc/codec/*.o; do
    seen=$((seen + 1))
    shared=$(nm -C --defined-only "$object" | grep -E ' [TWVu] ' |
      grep -vE "gw::${isa}::|gw::isa_table_${isa}\(" || true)
    if [ -n "$shared" ]; then
      echo "$object exports what other objects may export too (put it into namespace gw::GW_ISA):" >&2
      echo "$shared" >&2
      exit 1
    fi
  done
done
[ "$seen" -gt 0 ] || { echo "no instruction set objects under $build" >&2; exit 1; }
echo "$seen objects, one per instruction set, share no code"
