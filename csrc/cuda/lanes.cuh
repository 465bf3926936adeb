// Sums and maxima over the `lanes` neighbouring lanes of a warp that share a block. All lanes of the warp call them together.
#pragma once
#include "cuda/device.cuh"
// device.cuh first: it chooses the namespace
#include "codec/simd.hpp"

namespace gw::cuda {

GW_DEVICE uint32_t block_max(uint32_t v, uint32_t lanes) {
  for (int distance = static_cast<int>(lanes / 2); distance > 0; distance /= 2)
    v = max_of(v, __shfl_xor_sync(~0u, v, distance));
  return v;
}
GW_DEVICE int32_t block_sum(int32_t v, uint32_t lanes) {
  for (int distance = static_cast<int>(lanes / 2); distance > 0; distance /= 2)
    v += __shfl_xor_sync(~0u, v, distance);
  return v;
}

}  // namespace gw::cuda
