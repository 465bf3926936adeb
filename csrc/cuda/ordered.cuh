// Places in order for what the tiles of an array keep, in one pass over it: a tile publishes how much it keeps, and adds up what
// those before it have published ("decoupled look-back": Merrill, Garland: Single-pass Parallel Prefix Scan, NVIDIA 2016).
#pragma once
#include "cuda/device.cuh"

namespace gw::cuda {

// A tile's word: 62 bits of counts, of itself alone or of all tiles up to it. 0 at first.
inline constexpr uint64_t kAlone = uint64_t{1} << 62, kUpToHere = uint64_t{2} << 62, kCounts = kAlone - 1;

// A word carries all that its reader needs, so that no order of other memory matters.
GW_DEVICE uint64_t read_word(const uint64_t* p) {
#ifdef __CUDACC__
  uint64_t v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
#else
  return __atomic_load_n(p, __ATOMIC_RELAXED);
#endif
}
GW_DEVICE void write_word(uint64_t* p, uint64_t v) {
#ifdef __CUDACC__
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" : : "l"(p), "l"(v) : "memory");
#else
  __atomic_store_n(p, v, __ATOMIC_RELAXED);
#endif
}

// The sum of the counts of all tiles before this one. The lanes of one warp call it together. Tiles must have been begun in
// their order (by a ticket), so that those waited for are at work.
GW_DEVICE uint64_t sum_before(uint64_t* tiles, uint32_t tile, uint64_t counts) {
  const uint32_t lane = threadIdx.x % 32;
  if (lane == 0) write_word(tiles + tile, (tile == 0 ? kUpToHere : kAlone) | counts);
  uint64_t sum = 0;
  for (uint32_t end = tile; end > 0; end -= 32) {
    uint64_t word;
    for (;;) {
      word = lane < end ? read_word(tiles + end - 1 - lane) : kUpToHere;
      if (__ballot_sync(~0u, word < kAlone) == 0) break;
#ifndef __CUDACC__
      cusim::self::spin();
#endif
    }
    const uint32_t complete = __ballot_sync(~0u, word >= kUpToHere);
    const uint32_t last = complete ? static_cast<uint32_t>(__ffs(static_cast<int>(complete))) - 1 : 31;
    uint64_t part = lane <= last ? word & kCounts : 0;
    for (int distance = 16; distance > 0; distance /= 2) part += __shfl_xor_sync(~0u, part, distance);
    sum += part;
    if (complete) break;
  }
  if (lane == 0 && tile > 0) write_word(tiles + tile, kUpToHere | (sum + counts));
  return sum;
}

}  // namespace gw::cuda
