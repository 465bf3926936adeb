#include "codec/topk_exact.hpp"

#include <algorithm>
#include <bit>
#include <vector>

#include "base/error.hpp"
#include "codec/isa.hpp"

namespace gw {
namespace {

constexpr size_t kTile = 4096;    // elements pooled at a time, in the nearest cache
constexpr size_t kPool = 16;      // elements a maximum stands for
constexpr size_t kSmall = 16384;  // values: below this, bisection beats clearing a histogram

uint32_t magnitude(float f) { return std::bit_cast<uint32_t>(f) & 0x7fffffffu; }

// Of `count` keys of 16 bits the k-th largest, and how many are larger.
struct Bin {
  uint32_t upper;
  size_t above;
};
template <class Key>
Bin bin_of_kth(size_t count, size_t k, Key key) {
  std::vector<size_t> histogram(1u << 16);
  for (size_t i = 0; i < count; ++i) ++histogram[key(i)];
  size_t above = 0;
  uint32_t bin = (1u << 16) - 1;
  for (; bin > 0 && above + histogram[bin] < k; --bin) above += histogram[bin];
  return {bin, above};
}

uint32_t kth_largest(const std::vector<uint32_t>& values, size_t k) {
  if (values.size() <= kSmall) return isa_table().kth_largest(values.data(), values.size(), k);
  const Bin high = bin_of_kth(values.size(), k, [&](size_t i) { return values[i] >> 15; });
  std::vector<uint32_t> inside;
  for (uint32_t v : values)
    if (v >> 15 == high.upper) inside.push_back(v);
  const Bin low = bin_of_kth(inside.size(), k - high.above, [&](size_t i) { return inside[i] & 0x7fffu; });
  return high.upper << 15 | low.upper;
}

// At most the k-th largest magnitude, and close to it: the k-th largest of the maxima of disjoint groups. Where there
// are too few groups for that, a histogram of all elements.
uint32_t lower_bound(const float* x, size_t count, size_t k) {
  if (count <= kSmall) return 0;
  if (k > count / kPool / 2) {
    const auto at = [x](size_t i) { return magnitude(x[i]) >> 15; };
    return bin_of_kth(count, k, at).upper << 15;
  }
  std::vector<uint32_t> maxima;
  maxima.reserve(count / kPool + kTile);
  constexpr size_t kGroups = kTile / kPool;
  for (size_t i = 0; i + kTile <= count; i += kTile) {
    maxima.resize(maxima.size() + kGroups);
    isa_table().group_max(x + i, kTile, kGroups, maxima.data() + maxima.size() - kGroups);
  }
  if (maxima.size() < k) return 0;  // count is no multiple of the tile
  return kth_largest(maxima, k);
}

}  // namespace

void topk_exact(const float* x, size_t count, size_t k, float* values, int64_t* indices) {
  check_internal(k <= count, "topk_exact: k is above count");
  if (k == 0) return;
  const uint32_t bound = lower_bound(x, count, k);
  std::vector<int64_t> where;
  std::vector<uint32_t> size_at;
  where.reserve(k + k / 4);
  size_at.reserve(k + k / 4);
  std::vector<uint32_t> found(std::min(count, kTile));
  for (size_t i = 0; i < count; i += kTile) {
    const size_t n = isa_table().find_at_least(x + i, std::min(kTile, count - i), bound, found.data());
    for (size_t j = 0; j < n; ++j) {
      where.push_back(static_cast<int64_t>(i + found[j]));
      size_at.push_back(magnitude(x[i + found[j]]));
    }
  }
  const uint32_t threshold = kth_largest(size_at, k);
  size_t ties = k;
  for (uint32_t v : size_at) ties -= v > threshold;
  for (size_t j = 0, n = 0; n < k; ++j) {
    if (size_at[j] < threshold) continue;
    if (size_at[j] == threshold && ties-- == 0) {
      ties = 0;
      continue;
    }
    indices[n] = where[j];
    values[n++] = x[where[j]];
  }
}

}  // namespace gw
