// Tables of 16 signed bytes looked up by 4-bit indices: one instruction for a whole vector where the CPU has it.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "codec/simd.hpp"

namespace gw::GW_ISA {

// out[j] = table[index[j]] for j < N, a multiple of 16; every index is below 16. out may be index.
template <int N>
GW_INLINE void lookup16(const int8_t* table, const uint8_t* index, int8_t* out) {
  static_assert(N % 16 == 0);
  int j = 0;
#if defined(__AVX2__)
  const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
#if defined(__AVX512BW__)
  typedef long long Half __attribute__((vector_size(16)));
  typedef long long Whole __attribute__((vector_size(64)));
  // not _mm512_broadcast_i32x4: gcc 12 takes its undefined upper part for a bug of ours
  const auto t64 = (__m512i)(Whole)__builtin_shufflevector((Half)t, (Half)t, 0, 1, 0, 1, 0, 1, 0, 1);
  for (; j + 64 <= N; j += 64)
    _mm512_storeu_si512(out + j, _mm512_shuffle_epi8(t64, _mm512_loadu_si512(index + j)));
#endif
  const __m256i t32 = _mm256_broadcastsi128_si256(t);
  for (; j + 32 <= N; j += 32)
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(out + j),
        _mm256_shuffle_epi8(t32, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index + j))));
  for (; j < N; j += 16)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + j),
                     _mm_shuffle_epi8(t, _mm_loadu_si128(reinterpret_cast<const __m128i*>(index + j))));
#elif defined(__aarch64__)
  const int8x16_t t = vld1q_s8(table);
  for (; j < N; j += 16) vst1q_s8(out + j, vqtbl1q_s8(t, vld1q_u8(index + j)));
#else
  for (; j < N; ++j) out[j] = table[index[j]];
#endif
}

// The same with tables of 16, 32 or 64 entries and indices below Entries.
template <int Entries, int N>
GW_INLINE void lookup(const int8_t* table, const uint8_t* index, int8_t* out) {
  if constexpr (Entries <= 16) {
    lookup16<N>(table, index, out);
  } else {
    uint8_t low[N];
    int8_t part[N], sum[N];
    for (int j = 0; j < N; ++j) low[j] = index[j] & 15;
    lookup16<N>(table, low, sum);
    for (int t = 1; t < Entries / 16; ++t) {
      lookup16<N>(table + 16 * t, low, part);
      for (int j = 0; j < N; ++j) sum[j] = (index[j] >> 4) == t ? part[j] : sum[j];
    }
    __builtin_memcpy(out, sum, N);
  }
}

}  // namespace gw::GW_ISA
