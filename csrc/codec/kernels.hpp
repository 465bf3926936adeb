// Loops over elements of any dtype: what the executor does to values outside a codec. One source
// (kernels_impl.hpp), compiled once per instruction set; kernels() picks the best this CPU has, once.
// Same bytes from every instruction set. All counts and alignments are allowed. "fp32 accumulation": 16-bit floats
// are widened, summed left to right in fp32, and rounded once.
#pragma once
#include <cstddef>

#include "base/dtype.hpp"

namespace gw {

struct Kernels {
  const char* isa;  // "avx512", "avx2", "neon" or "portable"

  // out[i] = scale * (srcs[0][i] op srcs[1][i] op ... srcs[n-1][i]), left to right, 1 <= n. `scale` != 1 only for
  // float sums. out may be the same pointer as any source. If copy is not null the result is written there too.
  // op avg is not accepted: it is sum with a scale.
  void (*fold)(DType dtype, ReduceOp op, const void* const* srcs, int n, double scale, void* out, void* copy,
               size_t count);
  // out[i] = fp32(x[i]) + residual[i]   (residual may be null)
  void (*load)(DType dtype, const void* x, const float* residual, float* out, size_t count);
  // acc[i] += fp32(x[i]) + residual[i]   (the inner sum first; residual may be null)
  void (*load_add)(DType dtype, const void* x, const float* residual, float* acc, size_t count);
  // out[i] = dtype(x[i] * scale)
  void (*store)(DType dtype, const float* x, float scale, void* out, size_t count);
  // x[i] *= scale
  void (*scale)(float* x, float scale, size_t count);
  // out = in; the ranges do not overlap. See copy_impl.hpp on why not memcpy.
  void (*copy)(const void* in, void* out, size_t bytes);
  // The same with stores that bypass the caches, where the CPU has them. `out` is 64-byte aligned.
  void (*copy_streaming)(const void* in, void* out, size_t bytes);
};

const Kernels& kernels();
// A named instruction set, or null if this CPU or build lacks it. For tests and benchmarks.
const Kernels* kernels_for(const char* isa);

}  // namespace gw
