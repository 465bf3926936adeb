// Exact top-k of a whole array, for ops.topk. The codec of that name works block by block instead (topk.hpp).
#pragma once
#include <cstddef>
#include <cstdint>

namespace gw {

// values[j] = x[indices[j]], the k elements of largest magnitude in index order; ties go to the lower index, NaN counts
// as largest. k <= count. No sort: one vectorised read of x finds a lower bound of the threshold, a second collects
// the candidates, about 1.1 k of them for data without structure. Scratch: count / 4 bytes and the candidates.
void topk_exact(const float* x, size_t count, size_t k, float* values, int64_t* indices);

}  // namespace gw
