#include "codec/sample.hpp"

#include <algorithm>
#include <vector>

namespace gw {
namespace {

// splitmix64's output function (Steele, Lea, Flood 2014).
uint64_t mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

void sample_indices(uint64_t seed, uint64_t step, size_t count, size_t k, int64_t* indices) {
  if (!k) return;
  const uint64_t key = mix(step ^ mix(seed));
  const auto hash = [key](size_t i) { return mix(key ^ i); };
  // Hashes are spread evenly, so few lie below this limit and nearly always enough; else all are looked at.
  const double share = std::min(1.0, (static_cast<double>(k) * 1.2 + 100.0) / static_cast<double>(count));
  std::vector<std::pair<uint64_t, int64_t>> candidates;
  for (const double limit : {share, 1.0}) {
    const auto below = limit >= 1.0 ? ~uint64_t{0} : static_cast<uint64_t>(limit * 18446744073709551615.0);
    candidates.clear();
    for (size_t i = 0; i < count; ++i)
      if (const uint64_t h = hash(i); h <= below) candidates.emplace_back(h, static_cast<int64_t>(i));
    if (candidates.size() >= k) break;
  }
  std::nth_element(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(k - 1),
                   candidates.end());
  for (size_t i = 0; i < k; ++i) indices[i] = candidates[i].second;
  std::sort(indices, indices + k);
}

}  // namespace gw
