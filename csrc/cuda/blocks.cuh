// The frame of every kernel whose codec has blocks of 4096 values: a thread block takes one at a time, each thread 8
// consecutive values of either half.
//
// A codec has
//   struct Shape                    of a block, full or last; Shape::bytes: of its payload
//   shape_of(codec, length)         the Shape of a block of so many values
//   key_of(seed, step)              CodeCall::key of all of a step's draws
//   struct Shared                   its shared memory; has a Together::Shared together
//   Codec(const Block<Codec>&, Together&)
//   kResident                       thread blocks that share a multiprocessor while they encode; fewer have more registers
//   kExchanging                     the same while ranks exchange
//   encode(v)                       8 values of a thread from each half, which become what was lost of them
//   decode()                        all of its threads call either of them together
#pragma once
#include "cuda/together.cuh"

namespace gw::cuda {

inline constexpr uint32_t kBlock = 4096, kHalves = 2, kHalf = kBlock / kHalves;  // values
static_assert(kHalf == kThreads * kValues);

// What a thread knows of the block it works on.
template <class Codec>
struct Block {
  const CodeCall& call;
  typename Codec::Shape shape;
  typename Codec::Shared& shared;
  size_t begin;      // place of its first value
  uint32_t length;   // values
  uint8_t* payload;  // theirs, in memory

  // Place in the block of the thread's first value of a half.
  static GW_DEVICE uint32_t at(uint32_t half) { return half * kHalf + threadIdx.x * kValues; }
};

template <class Codec>
struct BlockCall {
  CodeCall call;
  typename Codec::Shape full, last;
};

GW_DEVICE Team all_threads() { return {threadIdx.x, kThreads}; }

template <class Codec, bool Decode>
__global__ void __launch_bounds__(kThreads, Decode ? 4 : Codec::kResident) code_blocks(BlockCall<Codec> c) {
  auto& shared = shared_memory<typename Codec::Shared>();
  const CodeCall& call = c.call;
  Together together(shared.together);
  const size_t blocks = (call.count + kBlock - 1) / kBlock;
  for (size_t i = blockIdx.x; i < blocks; i += gridDim.x) {
    const size_t begin = i * kBlock;
    const Block<Codec> b{.call = call,
                         .shape = i + 1 == blocks ? c.last : c.full,
                         .shared = shared,
                         .begin = begin,
                         .length = static_cast<uint32_t>(min_of(size_t{kBlock}, call.count - begin)),
                         .payload = call.payload + i * c.full.bytes};
    Codec codec(b, together);
    if constexpr (Decode) {
      codec.decode();
    } else {
      float v[kHalves][kValues];
      GW_UNROLL
      for (uint32_t h = 0; h < kHalves; ++h) take(call, begin + b.at(h), v[h]);
      codec.encode(v);
      GW_UNROLL
      for (uint32_t h = 0; h < kHalves; ++h)
        put_loss(call.residual, call.loss, begin + b.at(h), call.count, v[h]);
    }
    __syncthreads();  // before the shared memory is used for the next block
  }
}

}  // namespace gw::cuda
