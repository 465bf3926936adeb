// Exact top-k of a whole array, for ops.topk. The codec of that name works block by block instead (topk.hpp).
#pragma once
#include <cstddef>
#include <cstdint>

namespace gw {

// values[j] = x[indices[j]], the k elements of largest magnitude in index order; ties go to the lower index, NaN counts
// as largest. k <= count. No sort: a sample of 1/64 gives a lower bound of the threshold that k elements reach nearly
// always, one vectorised read of x collects the candidates (about 1.1 k), a histogram of those finds the threshold. If
// the sample misled, a lower bound and another read; the result is exact in any case. Scratch: the candidates.
void topk_exact(const float* x, size_t count, size_t k, float* values, int64_t* indices);

// Ascending indices and values of the elements with |x| >= threshold > 0, of which the first `room` are written. Returns
// how many there are.
size_t above_threshold(const float* x, size_t count, float threshold, size_t room, float* values,
                       int64_t* indices);

}  // namespace gw
