// What every codec kernel is called with, and how its threads come by 8 values and give them back.
#pragma once
#include "cuda/memory.cuh"
#include "cuda/residual.cuh"
// then
#include "codec/random.hpp"

namespace gw::cuda {

inline constexpr uint32_t kThreads = 256, kWarps = kThreads / 32;

struct CodeCall {
  void* array;  // x, or out
  uint8_t* payload;
  const void* owed;
  void* loss;
  uint64_t count, first, key;  // key: of the random numbers
  DType dtype;
  uint32_t residual, block, values;
  bool add;
};

struct Where {
  int device;
  cudaStream_t stream;
  const gw_cuda_exchange* exchange = nullptr;  // instead of an array and a payload
  int* most = nullptr;  // of its blocks that run at once: asked for instead of a launch
};

// What to do with a payload.
struct Task {
  gw_cuda_codec codec;
  CodeCall call;
  bool decode;
  Where where;
  uint64_t step;
};

// v = array + owed
GW_DEVICE void take(const CodeCall& call, size_t at, float (&v)[kValues]) {
  load(call.dtype, call.array, at, call.count, v);
  add_owed(call.residual, call.owed, at, call.count, v);
}
// array = v, or array += v
GW_DEVICE void give(const CodeCall& call, size_t at, float (&v)[kValues]) {
  if (call.add) {
    float acc[kValues];
    load(call.dtype, call.array, at, call.count, acc);
    for (int k = 0; k < kValues; ++k) v[k] = sum_of(acc[k], v[k]);
  }
  store(call.dtype, call.array, at, call.count, v);
}

}  // namespace gw::cuda
