#include "codec/topk_exact.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "base/error.hpp"
#include "codec/isa.hpp"

namespace gw {
namespace {

constexpr size_t kTile = 4096;    // elements searched at a time, in the nearest cache
constexpr size_t kSmall = 4096;   // values: below this, bisection beats a histogram
constexpr size_t kRun = 4;        // elements of a sample that lie side by side, one run in every...
constexpr size_t kStride = 256;   // ...so many elements: 1/64 of them, 1/16 of the cache lines
constexpr size_t kFindSlack = 2;  // what find_at_least may write too much (select.hpp)

uint32_t magnitude(float f) { return std::bit_cast<uint32_t>(f) & 0x7fffffffu; }

// The k-th largest: a histogram over the range there is, then the same inside the bin that holds it.
uint32_t kth_largest(std::vector<uint32_t> values, size_t k) {
  while (values.size() > kSmall) {
    const auto [least, most] = std::ranges::minmax(values);
    if (least == most) return least;
    const int shift = std::max(0, static_cast<int>(std::bit_width(most - least)) - 12);
    std::vector<uint32_t> histogram(((most - least) >> shift) + 1);
    for (uint32_t v : values) ++histogram[(v - least) >> shift];
    size_t bin = histogram.size() - 1;
    for (; histogram[bin] < k; --bin) k -= histogram[bin];
    if (shift == 0) return least + static_cast<uint32_t>(bin);
    std::erase_if(values, [&, base = least](uint32_t v) { return (v - base) >> shift != bin; });
  }
  // with no slack: exact, or a cut between the k-th and the next
  const uint32_t cut = isa_table().cut_at(values.data(), values.size(), k, 0, values[0]);
  uint32_t least = ~0u;
  for (uint32_t v : values)
    if (v >= cut) least = std::min(least, v);
  return least;
}

// Runs from all over the array, each at a place of its own inside its stretch, so that no period of the data can hide
// from them. The place is a function of the index: the sample, like the result, is the same on every machine.
std::vector<uint32_t> sample_of(const float* x, size_t count) {
  std::vector<uint32_t> sample;
  sample.reserve(count / kStride * kRun);
  for (size_t i = 0; i + kStride <= count; i += kStride) {
    const size_t place = (i * 0x9e3779b97f4a7c15u >> 32) % (kStride / kRun) * kRun;
    for (size_t j = 0; j < kRun; ++j) sample.push_back(magnitude(x[i + place + j]));
  }
  return sample;
}

struct Candidates {
  std::vector<int64_t> where;
  std::vector<uint32_t> size;
};

void collect(const float* x, size_t count, uint32_t bound, Candidates& c) {
  c.where.clear();
  c.size.clear();
  uint32_t found[kTile + kFindSlack];
  const IsaTable& isa = isa_table();
  for (size_t i = 0; i < count; i += kTile) {
    const size_t n = isa.find_at_least(x + i, std::min(kTile, count - i), bound, found);
    for (size_t j = 0; j < n; ++j) {
      c.where.push_back(static_cast<int64_t>(i + found[j]));
      c.size.push_back(magnitude(x[i + found[j]]));
    }
  }
}

}  // namespace

void topk_exact(const float* x, size_t count, size_t k, float* values, int64_t* indices) {
  check_internal(k <= count, "topk_exact: k is above count");
  if (k == 0) return;
  std::vector<uint32_t> sample;
  if (count > 16 * kSmall) sample = sample_of(x, count);
  const double expected =
      static_cast<double>(k) * static_cast<double>(sample.size()) / static_cast<double>(count);
  // four standard deviations more than the share, so that k are found nearly always; if not, a lower bound finds them
  auto rank = static_cast<size_t>(expected + 4 * std::sqrt(expected) + 8);
  Candidates c;
  c.where.reserve(k + k / 4 + 64);
  c.size.reserve(k + k / 4 + 64);
  do {
    collect(x, count, rank < sample.size() ? kth_largest(sample, rank) : 0, c);
    rank *= 4;
  } while (c.size.size() < k);

  const uint32_t threshold = kth_largest(c.size, k);
  size_t ties = k;
  for (uint32_t v : c.size) ties -= v > threshold;
  for (size_t j = 0, n = 0; n < k; ++j) {
    const uint32_t v = c.size[j];
    if (v < threshold || (v == threshold && ties == 0)) continue;
    ties -= v == threshold;
    indices[n] = c.where[j];
    values[n++] = x[c.where[j]];
  }
}

size_t above_threshold(const float* x, size_t count, float threshold, size_t room, float* values,
                       int64_t* indices) {
  uint32_t found[kTile + kFindSlack];
  size_t total = 0;
  for (size_t i = 0; i < count; i += kTile) {
    const size_t n =
        isa_table().find_at_least(x + i, std::min(kTile, count - i), magnitude(threshold), found);
    for (size_t j = 0; j < n && total + j < room; ++j) {
      indices[total + j] = static_cast<int64_t>(i + found[j]);
      values[total + j] = x[i + found[j]];
    }
    total += n;
  }
  return total;
}

}  // namespace gw
