// Choosing by magnitude, without sorting: vectorised primitives shared by the topk codec and topk_exact.
#pragma once
#include "codec/simd.hpp"

namespace gw::GW_ISA {

// NaN counts as larger than Inf, as its bits are.
GW_INLINE size_t count_at_least(const uint32_t* values, size_t count, uint32_t threshold) {
  uint32_t n = 0;
  for (size_t i = 0; i < count; ++i) n += values[i] >= threshold;
  return n;
}

// The k-th largest of values, 1 <= k <= count < 2^32: the largest t with count_at_least(t) >= k, by bisection over the
// bits. Each step is one vectorised pass; with values in the nearest cache that beats a histogram.
static uint32_t kth_largest(const uint32_t* values, size_t count, size_t k) {
  uint32_t low = ~0u, high = 0;
  for (size_t i = 0; i < count; ++i) {
    low = min_of(low, values[i]);
    high = max_of(high, values[i]);
  }
  while (low < high) {  // invariant: count_at_least(low) >= k > count_at_least(high + 1)
    const uint32_t middle = low + (high - low) / 2 + 1;
    if (count_at_least(values, count, middle) >= k)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

static void group_max(const float* x, size_t count, size_t groups, uint32_t* maxima) {
  __builtin_memset(maxima, 0, groups * sizeof(uint32_t));
  size_t i = 0;
  for (; i + groups <= count; i += groups)
    for (size_t j = 0; j < groups; ++j) maxima[j] = max_of(maxima[j], magnitude(x[i + j]));
  for (size_t j = 0; i + j < count; ++j) maxima[j] = max_of(maxima[j], magnitude(x[i + j]));
}

// Most groups of 64 hold nothing or little: a vectorised compare builds the mask, the loop visits its ones.
static size_t find_at_least(const float* x, size_t count, uint32_t threshold, uint32_t* indices) {
  size_t found = 0, i = 0;
  for (; i + 64 <= count; i += 64) {
    uint8_t hit[64];
    for (int j = 0; j < 64; ++j) hit[j] = magnitude(x[i + j]) >= threshold;
    for (int w = 0; w < 64; w += 8) {
      uint64_t eight;
      __builtin_memcpy(&eight, hit + w, 8);
      while (eight) {
        indices[found++] = static_cast<uint32_t>(i + w + __builtin_ctzll(eight) / 8);
        eight &= eight - 1;  // each byte is 0 or 1
      }
    }
  }
  for (; i < count; ++i)
    if (magnitude(x[i]) >= threshold) indices[found++] = static_cast<uint32_t>(i);
  return found;
}

}  // namespace gw::GW_ISA
