// The orthonormal Walsh-Hadamard transform of consecutive blocks: its own inverse. It spreads a large element over its
// block, after which quantisers meet nearly Gaussian values.
#pragma once
#include <cstddef>

namespace gw {

// block: a power of two that divides count. out may be x. Sums in the order of the butterflies of distance 1, 2, 4, ...,
// then one product with 1 / sqrt(block): the same bits on every machine.
void walsh_hadamard(const float* x, size_t count, size_t block, float* out);

}  // namespace gw
