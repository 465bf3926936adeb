// Sums of a few arrays of 16-bit floats, as fast as memory gives them: 32 values a turn. The bits are those of the plain
// loop, sum_whole in kernels_impl.hpp, which the compiler vectorises less well (25 MiB of fp32 took little longer than half
// as many bytes of bf16, two cores, 2026-11).
#pragma once
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "codec/isa.hpp"
#include "codec/simd.hpp"

namespace gw::GW_ISA {

typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Halves __attribute__((vector_size(kVectorBytes)));
inline constexpr size_t kHalves = sizeof(Halves) / 2;

// Two bf16 lie in each word: the first becomes a float by a shift, the second by clearing the first.
template <int N>
GW_INLINE void add_pairs(const Any<Words>* const* from, size_t i, Floats& first, Floats& second) {
  for (int s = 0; s < N; ++s) {
    const Words w = from[s][i].value;
    const auto a = reinterpret_cast<Floats>(w << 16), b = reinterpret_cast<Floats>(w & 0xffff0000u);
    first = s ? first + a : a;
    second = s ? second + b : b;
  }
}

// Both values of every word are rounded at once, to nearest even: to the upper half of the float, or to one more if the
// lower half is above 0x8000 or, of an odd upper one, 0x8000 itself. A sum that is NaN is a quiet one, so its upper
// half is what narrow_to() gives.
GW_INLINE void round_pairs(const Floats& first, const Floats& second, Halves& out) {
  const auto a = reinterpret_cast<Words>(first), b = reinterpret_cast<Words>(second);
  const auto upper = reinterpret_cast<Halves>((a >> 16) | (b & 0xffff0000u));
  const auto lower = reinterpret_cast<Halves>((a & 0xffffu) | (b << 16));
  const auto up = ((lower | (upper & 1)) > 0x8000) & ((upper & 0x7fff) <= 0x7f80);
  out = up ? upper + 1 : upper;
}

// Returns how many values it did.
template <int N, bool Copy>
size_t sum_halves(const void* const* srcs, float factor, Any<bf16_t>* out, Any<bf16_t>* also, size_t count) {
  const Any<Words>* from[N];
  for (int s = 0; s < N; ++s) from[s] = static_cast<const Any<Words>*>(srcs[s]);
  auto *to = reinterpret_cast<Any<Halves>*>(out), *too = reinterpret_cast<Any<Halves>*>(also);
  const size_t turns = count / kHalves;
  for (size_t i = 0; i < turns; ++i) {
    Floats first, second;
    add_pairs<N>(from, i, first, second);
    if (factor != 1) {
      first *= factor;
      second *= factor;
    }
    Halves both;
    round_pairs(first, second, both);
    to[i].value = both;
    if constexpr (Copy) too[i].value = both;
  }
  return turns * kHalves;
}

#if defined(__F16C__)
// The instructions round to nearest even, keep subnormals and quieten NaNs, whatever the thread's modes: narrow_to()'s bits.
template <int N, bool Copy>
size_t sum_halves(const void* const* srcs, float factor, Any<f16_t>* out, Any<f16_t>* also, size_t count) {
  const __m256 by = _mm256_set1_ps(factor);
  const size_t done = count / 8 * 8;
  for (size_t i = 0; i < done; i += 8) {
    __m256 sum{};
    for (int s = 0; s < N; ++s) {
      const auto* from = static_cast<const Any<f16_t>*>(srcs[s]) + i;
      const __m256 x = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from)));
      sum = s ? _mm256_add_ps(sum, x) : x;
    }
    const __m128i half = _mm256_cvtps_ph(_mm256_mul_ps(sum, by), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i_u*>(out + i), half);
    if constexpr (Copy) _mm_storeu_si128(reinterpret_cast<__m128i_u*>(also + i), half);
  }
  return done;
}
#else
template <int N, bool Copy>
size_t sum_halves(const void* const*, float, Any<f16_t>*, Any<f16_t>*, size_t) {
  return 0;
}
#endif

}  // namespace gw::GW_ISA
