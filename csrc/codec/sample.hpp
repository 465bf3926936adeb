// A random choice that every rank makes alike, without a message: by numbers that depend on seed, step and element only.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gw {

// k of count elements, each set of k equally likely, in ascending order. k <= count. The k elements whose hash (splitmix64
// of seed, step and element) is smallest; on a tie the lower index.
void sample_indices(uint64_t seed, uint64_t step, size_t count, size_t k, int64_t* indices);

}  // namespace gw
