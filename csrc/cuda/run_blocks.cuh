// Launches the kernels of a codec with blocks of 4096 values.
#pragma once
#include "cuda/peer_blocks.cuh"

namespace gw::cuda {

template <class Codec>
int run_blocks(const Task& t) {
  if (t.where.exchange) return run_exchange(exchange_blocks<Codec>, *t.where.exchange, t.where.most);
  const size_t blocks = (t.call.count + kBlock - 1) / kBlock, most = most_blocks(t.where.device);
  BlockCall<Codec> c{t.call, Codec::shape_of(t.codec, kBlock),
                     Codec::shape_of(t.codec, static_cast<uint32_t>(t.call.count - (blocks - 1) * kBlock))};
  c.call.key = Codec::key_of(t.codec.seed, t.step);
  const dim3 grid{static_cast<unsigned>(min_of(blocks, most)), 1, 1};
  return launch(t.decode ? code_blocks<Codec, true> : code_blocks<Codec, false>, grid, kThreads,
                t.where.stream, c);
}

}  // namespace gw::cuda
