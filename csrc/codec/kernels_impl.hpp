// The Kernels table for one instruction set.
//
// A chunk that fits the nearest cache is widened, folded and narrowed by loops over plain arrays, so any number of
// sources costs one pass over memory; float sums of 2 to 4 sources, the heart of all_reduce, go in a single loop.
// Rules: floats of 16 bits are folded in fp32 and rounded once, the others in their own type. A factor multiplies the
// folded value as fp32 (fp64 for float64) before rounding. Integers wrap. min and max of floats give NaN if any
// source is NaN; which NaN, and which of +0 and -0, depends on the order of the sources alone, but a NaN's payload
// after an addition is up to the hardware.
#pragma once
#include <cstdint>
#include <type_traits>

#include "codec/half_sums.hpp"
#include "codec/isa.hpp"
#include "codec/simd.hpp"

namespace gw::GW_ISA {

// How a dtype is held in memory (T) and folded (Acc).
template <class T_, class Acc_>
struct Element {
  using T = T_;
  using Acc = Acc_;
  static GW_INLINE Acc widen(T v) {
    if constexpr (std::is_same_v<T, Acc>)
      return v;
    else
      return GW_ISA::widen(v);
  }
  static GW_INLINE T narrow(Acc v) {
    if constexpr (std::is_same_v<T, bf16_t> || std::is_same_v<T, f16_t>)
      return narrow_to(v, T{});
    else
      return static_cast<T>(v);  // float64 from fp32 in store()
  }
  static constexpr bool kFloat = Acc(0.5f) != 0;
};
using F32 = Element<float, float>;
using F64 = Element<double, double>;
using BF16 = Element<bf16_t, float>;
using F16 = Element<f16_t, float>;
using I32 = Element<int32_t, int32_t>;
using I64 = Element<int64_t, int64_t>;
using U8 = Element<uint8_t, uint8_t>;

inline constexpr size_t kChunk = 2048;  // elements: 16 KiB of the widest accumulator

template <ReduceOp Op, class A>
GW_INLINE A combine(A a, A b) {
  if constexpr (Op == ReduceOp::sum || Op == ReduceOp::prod) {
    if constexpr (std::is_integral_v<A>) {
      using U =
          std::conditional_t<sizeof(A) < 4, uint32_t, std::make_unsigned_t<A>>;  // wraps, never overflows
      return static_cast<A>(Op == ReduceOp::sum ? static_cast<U>(a) + static_cast<U>(b)
                                                : static_cast<U>(a) * static_cast<U>(b));
    } else {
      return Op == ReduceOp::sum ? a + b : a * b;
    }
  } else {
    const bool first = Op == ReduceOp::min ? a < b : a > b;
    return first || a != a ? a : b;  // a != a: NaN
  }
}

template <class E>
const Any<typename E::T>* elements(const void* p, size_t at) {
  return static_cast<const Any<typename E::T>*>(p) + at;
}

template <class E, ReduceOp Op>
void fold_into(typename E::Acc* acc, const Any<typename E::T>* x, size_t n) {
  GW_IVDEP
  for (size_t i = 0; i < n; ++i) acc[i] = combine<Op, typename E::Acc>(acc[i], E::widen(x[i].value));
}

// One chunk, any number of sources.
template <class E>
void fold_chunk(ReduceOp op, const void* const* srcs, int n, size_t at, typename E::Acc factor,
                Any<typename E::T>* out, size_t count) {
  typename E::Acc acc[kChunk];
  const auto* first = elements<E>(srcs[0], at);
  for (size_t i = 0; i < count; ++i) acc[i] = E::widen(first[i].value);
  for (int s = 1; s < n; ++s) {
    const auto* x = elements<E>(srcs[s], at);
    switch (op) {
      case ReduceOp::sum:
        fold_into<E, ReduceOp::sum>(acc, x, count);
        break;
      case ReduceOp::prod:
        fold_into<E, ReduceOp::prod>(acc, x, count);
        break;
      case ReduceOp::min:
        fold_into<E, ReduceOp::min>(acc, x, count);
        break;
      case ReduceOp::max:
        fold_into<E, ReduceOp::max>(acc, x, count);
        break;
      case ReduceOp::avg:
        fail_kernel("fold: avg is a sum with a scale");
    }
  }
  for (size_t i = 0; i < count; ++i) {
    if constexpr (E::kFloat)
      out[i].value = E::narrow(acc[i] * factor);
    else
      out[i].value = acc[i];
  }
}

// Float sums of N sources in one loop. Multiplying by a factor of 1 changes nothing and hides behind memory.
template <class E, int N, bool Copy>
void sum_whole(const void* const* srcs, typename E::Acc factor, Any<typename E::T>* out,
               Any<typename E::T>* also, size_t count) {
  const auto* a = elements<E>(srcs[0], 0);
  const auto* b = elements<E>(srcs[1], 0);
  const auto* c = elements<E>(srcs[N > 2 ? 2 : 0], 0);
  const auto* d = elements<E>(srcs[N > 3 ? 3 : 0], 0);
  size_t done = 0;
  if constexpr (sizeof(typename E::T) == 2) done = sum_halves<N, Copy>(srcs, factor, out, also, count);
  GW_IVDEP
  for (size_t i = done; i < count; ++i) {
    auto v = E::widen(a[i].value) + E::widen(b[i].value);
    if constexpr (N > 2) v += E::widen(c[i].value);
    if constexpr (N > 3) v += E::widen(d[i].value);
    // as a number: GCC vectorises no copy of a struct, be it of 16 bits
    if constexpr (sizeof(typename E::T) == 2) {
      const uint16_t bits = E::narrow(v * factor).bits;
      out[i].value.bits = bits;
      if constexpr (Copy) also[i].value.bits = bits;
    } else {
      const auto result = E::narrow(v * factor);
      out[i].value = result;
      if constexpr (Copy) also[i].value = result;
    }
  }
}

template <class E, bool Copy>
bool sum_few(const void* const* srcs, int n, typename E::Acc factor, Any<typename E::T>* out,
             Any<typename E::T>* also, size_t count) {
  if (n == 2) sum_whole<E, 2, Copy>(srcs, factor, out, also, count);
  if (n == 3) sum_whole<E, 3, Copy>(srcs, factor, out, also, count);
  if (n == 4) sum_whole<E, 4, Copy>(srcs, factor, out, also, count);
  return n >= 2 && n <= 4;
}

template <class E>
void fold_typed(ReduceOp op, const void* const* srcs, int n, double scale, void* out, void* copy,
                size_t count) {
  using T = typename E::T;
  if (n < 1) fail_kernel("fold: no sources");
  if (scale != 1.0 && !(E::kFloat && op == ReduceOp::sum))
    fail_kernel("fold: a scale is for float sums only");
  const auto factor = static_cast<typename E::Acc>(scale);
  if constexpr (E::kFloat) {
    auto* to = static_cast<Any<T>*>(out);
    auto* also = static_cast<Any<T>*>(copy);
    if (op == ReduceOp::sum && (copy ? sum_few<E, true>(srcs, n, factor, to, also, count)
                                     : sum_few<E, false>(srcs, n, factor, to, also, count)))
      return;
  }
  for (size_t at = 0; at < count; at += kChunk) {
    const size_t m = min_of(kChunk, count - at);
    auto* to = static_cast<Any<T>*>(out) + at;
    bool done = false;
    if (n == 1 && scale == 1.0) {
      if (to != elements<E>(srcs[0], at)) __builtin_memmove(to, elements<E>(srcs[0], at), m * sizeof(T));
      done = true;
    }
    if (!done) fold_chunk<E>(op, srcs, n, at, factor, to, m);
    if (copy) __builtin_memcpy(static_cast<Any<T>*>(copy) + at, to, m * sizeof(T));
  }
}

template <class E>
void load_typed(const void* x, const float* residual, float* out, size_t count) {
  const auto* in = elements<E>(x, 0);
  if (residual) {
    GW_IVDEP
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(E::widen(in[i].value)) + residual[i];
  } else {
    GW_IVDEP
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(E::widen(in[i].value));
  }
}

template <class E>
void load_add_typed(const void* x, const float* residual, float* acc, size_t count) {
  const auto* in = elements<E>(x, 0);
  if (residual) {
    GW_IVDEP
    for (size_t i = 0; i < count; ++i) acc[i] += static_cast<float>(E::widen(in[i].value)) + residual[i];
  } else {
    GW_IVDEP
    for (size_t i = 0; i < count; ++i) acc[i] += static_cast<float>(E::widen(in[i].value));
  }
}

template <class E>
void store_typed(const float* x, float scale, void* out, size_t count) {
  auto* to = static_cast<Any<typename E::T>*>(out);
  GW_IVDEP
  for (size_t i = 0; i < count; ++i) to[i].value = E::narrow(x[i] * scale);
}

static void fold(DType dtype, ReduceOp op, const void* const* srcs, int n, double scale, void* out,
                 void* copy, size_t count) {
  switch (dtype) {
    case DType::f32:
      return fold_typed<F32>(op, srcs, n, scale, out, copy, count);
    case DType::f64:
      return fold_typed<F64>(op, srcs, n, scale, out, copy, count);
    case DType::bf16:
      return fold_typed<BF16>(op, srcs, n, scale, out, copy, count);
    case DType::f16:
      return fold_typed<F16>(op, srcs, n, scale, out, copy, count);
    case DType::i32:
      return fold_typed<I32>(op, srcs, n, scale, out, copy, count);
    case DType::i64:
      return fold_typed<I64>(op, srcs, n, scale, out, copy, count);
    case DType::u8:
      return fold_typed<U8>(op, srcs, n, scale, out, copy, count);
  }
  fail_kernel("fold: unknown dtype");
}

// load, load_add and store stand on either side of a codec, so integers never reach them.
#define GW_FLOAT_DTYPES(what, call)                         \
  switch (dtype) {                                          \
    case DType::f32:                                        \
      return call(F32);                                     \
    case DType::f64:                                        \
      return call(F64);                                     \
    case DType::bf16:                                       \
      return call(BF16);                                    \
    case DType::f16:                                        \
      return call(F16);                                     \
    default:                                                \
      fail_kernel(what ": only floats go through a codec"); \
  }

static void load(DType dtype, const void* x, const float* residual, float* out, size_t count) {
#define GW_CALL(E) load_typed<E>(x, residual, out, count)
  GW_FLOAT_DTYPES("load", GW_CALL)
#undef GW_CALL
}
static void load_add(DType dtype, const void* x, const float* residual, float* acc, size_t count) {
#define GW_CALL(E) load_add_typed<E>(x, residual, acc, count)
  GW_FLOAT_DTYPES("load_add", GW_CALL)
#undef GW_CALL
}
static void store(DType dtype, const float* x, float scale, void* out, size_t count) {
#define GW_CALL(E) store_typed<E>(x, scale, out, count)
  GW_FLOAT_DTYPES("store", GW_CALL)
#undef GW_CALL
}
#undef GW_FLOAT_DTYPES

static void scale(float* x, float factor, size_t count) {
  for (size_t i = 0; i < count; ++i) x[i] *= factor;
}

}  // namespace gw::GW_ISA
