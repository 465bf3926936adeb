// Signals between ranks: words in memory that GPUs share. What a block wrote before it raised a signal is seen by whoever has
// seen the signal, on any GPU of the host. A signal is the number of the exchange, so that nothing has to be reset.
#pragma once
#include "cuda/device.cuh"

namespace gw::cuda {

struct Signals {
  // All of the block's writes, by one thread, after a barrier.
  static GW_DEVICE void raise(uint32_t* at, uint32_t number) {
#ifdef __CUDACC__
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(at), "r"(number) : "memory");
#else
    __atomic_store_n(at, number, __ATOMIC_RELEASE);
#endif
  }
  static GW_DEVICE uint32_t look(const uint32_t* at) {
#ifdef __CUDACC__
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
#else
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
#endif
  }
  // Before a signal: the whole block has done its work.
  static GW_DEVICE void gather() { __syncthreads(); }
};

GW_DEVICE uint64_t clock_ns() {
#ifdef __CUDACC__
  uint64_t t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
#else
  return cusim::self::clock_ns();
#endif
}
GW_DEVICE void let_others_run() {
#ifndef __CUDACC__
  cusim::self::spin();
#endif
}

// Until the signal has come to `number`; false after limit_ns, or once *stop is not 0 (null: nobody stops it).
template <class S>
GW_DEVICE bool await(const uint32_t* at, uint32_t number, uint64_t limit_ns, const uint32_t* stop) {
  constexpr uint32_t kSeldom = 256;  // looks: the host's memory is far away
  const auto missing = [&] { return static_cast<int32_t>(S::look(at) - number) < 0; };
  if (!missing()) return true;
  uint32_t looks = 0;
  for (const uint64_t start = clock_ns(); missing(); let_others_run()) {
    if (clock_ns() - start > limit_ns) return false;
    if (stop && looks++ % kSeldom == 0 && Signals::look(stop)) return false;
  }
  return true;
}

}  // namespace gw::cuda
