// Sums, maxima and prefix sums over all kThreads threads of a thread block, which call each of them together. Each costs one
// barrier: what was in shared memory before a call is there for all threads after it.
#pragma once
#include "cuda/call.cuh"

namespace gw::cuda {

// Four counts below 2^16 in one word, so that one prefix sum serves them all.
GW_DEVICE uint32_t field(uint64_t counts, uint32_t i) {
  return static_cast<uint32_t>(counts >> (16 * i)) & 0xffffu;
}

class Together {
 public:
  struct Shared {
    uint64_t of_warp[2][kWarps];
  };
  GW_DEVICE explicit Together(Shared& shared) : shared_(shared) {}

  GW_DEVICE uint32_t max(uint32_t v) {
    const uint64_t* all = exchange(__reduce_max_sync(~0u, v));
    for (uint32_t w = 0; w < kWarps; ++w) v = max_of(v, static_cast<uint32_t>(all[w]));
    return v;
  }
  GW_DEVICE uint32_t sum(uint32_t v) {
    const uint64_t* all = exchange(__reduce_add_sync(~0u, v));
    v = 0;
    for (uint32_t w = 0; w < kWarps; ++w) v += static_cast<uint32_t>(all[w]);
    return v;
  }
  // The sum over the threads before this one. `total`: over all of them.
  GW_DEVICE uint64_t before(uint64_t v, uint64_t& total) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t until = v;
    for (uint32_t distance = 1; distance < 32; distance *= 2) {
      const uint64_t other = __shfl_up_sync(~0u, until, distance);
      if (lane >= distance) until += other;
    }
    const uint64_t* all = exchange(__shfl_sync(~0u, until, 31));
    uint64_t sum = until - v;
    total = 0;
    for (uint32_t w = 0; w < kWarps; ++w) {
      if (w < warp) sum += all[w];
      total += all[w];
    }
    return sum;
  }

 private:
  // Two places in turn: who writes to one again has met all others at the barrier of the call between.
  GW_DEVICE const uint64_t* exchange(uint64_t of_warp) {
    uint64_t* all = shared_.of_warp[turn_];
    turn_ ^= 1;
    if (threadIdx.x % 32 == 0) all[threadIdx.x / 32] = of_warp;
    __syncthreads();
    return all;
  }

  Shared& shared_;
  uint32_t turn_ = 0;
};

}  // namespace gw::cuda
