// Choosing by magnitude, without sorting: vectorised primitives shared by the topk codec and topk_exact.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "codec/simd.hpp"

namespace gw::GW_ISA {

// What find_at_least may write behind the last index it reports.
inline constexpr size_t kFindSlack = 2;

// Bit j: magnitude(x[j]) >= threshold, 1 <= threshold < 2^31.
GW_INLINE uint64_t hits_of_64(const float* x, uint32_t threshold) {
  uint64_t hits = 0;
#if defined(__AVX512F__)
  const __m512i sign = _mm512_set1_epi32(0x7fffffff), t = _mm512_set1_epi32(static_cast<int>(threshold));
  for (int j = 0; j < 4; ++j) {
    const __m512i v = _mm512_and_si512(_mm512_loadu_si512(x + 16 * j), sign);
    hits |= uint64_t{_mm512_cmpge_epu32_mask(v, t)} << (16 * j);
  }
#elif defined(__AVX2__)
  const __m256i sign = _mm256_set1_epi32(0x7fffffff),
                below = _mm256_set1_epi32(static_cast<int>(threshold - 1));
  for (int j = 0; j < 8; ++j) {
    const __m256i v = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x) + j), sign);
    const int m = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(v, below)));
    hits |= uint64_t{static_cast<uint32_t>(m)} << (8 * j);
  }
#elif defined(__SSE2__)
  const __m128i sign = _mm_set1_epi32(0x7fffffff), below = _mm_set1_epi32(static_cast<int>(threshold - 1));
  for (int j = 0; j < 16; ++j) {
    const __m128i v = _mm_and_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x) + j), sign);
    const int m = _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpgt_epi32(v, below)));
    hits |= uint64_t{static_cast<uint32_t>(m)} << (4 * j);
  }
#else
  uint8_t hit[64];
  for (int j = 0; j < 64; ++j) hit[j] = magnitude(x[j]) >= threshold;
  for (int w = 0; w < 8; ++w) {
    uint64_t eight;
    __builtin_memcpy(&eight, hit + 8 * w, 8);
    hits |= (eight * 0x0102040810204080u >> 56) << (8 * w);  // gathers the eight bytes' lowest bits
  }
#endif
  return hits;
}

// Appends the ascending indices i with magnitude(x[i]) >= threshold; `indices` has room for count + kFindSlack. Two
// indices of every 64 elements are written unseen: at the densities that matter a branch on the number of hits would
// be mispredicted every other time.
static size_t find_at_least(const float* x, size_t count, uint32_t threshold, uint32_t* indices) {
  size_t found = 0, i = 0;
  if (threshold == 0) {
    for (; i < count; ++i) indices[i] = static_cast<uint32_t>(i);
    return count;
  }
  if (threshold > 0x7fffffffu) return 0;
  for (; i + 64 <= count; i += 64) {
    uint64_t hits = hits_of_64(x + i, threshold);
    const auto base = static_cast<uint32_t>(i);
    const auto n = static_cast<size_t>(__builtin_popcountll(hits));
    uint32_t* to = indices + found;
    found += n;
    for (int j = 0; j < 2; ++j) {
      to[j] = base + static_cast<uint32_t>(__builtin_ctzll(hits | uint64_t{1} << 63));
      hits &= hits - 1;
    }
    for (size_t j = 2; j < n; ++j) {
      to[j] = base + static_cast<uint32_t>(__builtin_ctzll(hits));
      hits &= hits - 1;
    }
  }
  for (; i < count; ++i)
    if (magnitude(x[i]) >= threshold) indices[found++] = static_cast<uint32_t>(i);
  return found;
}

// NaN counts as larger than Inf, as its bits are. Values below 2^31.
GW_INLINE size_t count_at_least(const uint32_t* values, size_t count, uint32_t threshold) {
  const auto t = static_cast<int32_t>(threshold);
  int32_t n = 0;
  for (size_t i = 0; i < count; ++i) n += static_cast<int32_t>(values[i]) >= t;
  return static_cast<size_t>(n);
}

GW_INLINE size_t count_above(const uint32_t* values, size_t count, uint32_t threshold) {
  return threshold == 0x7fffffffu ? 0 : count_at_least(values, count, threshold + 1);
}

// A threshold t with count_at_least(t) >= k, 1 <= k <= count < 2^31, values below 2^31. Either at most k + slack values
// reach it, or it is the k-th largest itself and the surplus are its ties. A bisection that begins at `guess` and
// gallops, so that a good guess costs two or three passes; with values in the nearest cache that beats a histogram.
static uint32_t cut_at(const uint32_t* values, size_t count, size_t k, size_t slack, uint32_t guess) {
  uint32_t low = 0, high = 0x7fffffffu;  // count_at_least(low) >= k > count_at_least(high + 1)
  uint32_t stride = 1u << 17;            // 1/64 of a binade
  bool narrowed = false;                 // both sides were seen: bisect
  bool rose = false, fell = false;
  while (low < high) {
    const uint32_t t = narrowed ? low + (high - low) / 2 + 1 : max_of(low + 1, min_of(guess, high));
    const size_t n = count_at_least(values, count, t);
    if (n >= k) {
      low = t;
      if (n - k <= slack) break;
      rose = true;
      guess = t + min_of(stride, high - t);
    } else {
      high = t - 1;
      fell = true;
      guess = t - min_of(stride, t);
    }
    stride = min_of(stride * 2, 1u << 28);
    narrowed = rose && fell;
  }
  return low;
}

}  // namespace gw::GW_ISA
