// Exchanges without a codec: values are read where they lie in the peers' arrays, folded in fp32 in order of ranks, and written
// once.
#pragma once
#include "cuda/peers.cuh"

namespace gw::cuda {

// a op b, as codec/kernels_impl.hpp has it
GW_DEVICE float combine(ReduceOp op, float a, float b) {
  switch (op) {
    case ReduceOp::min:
      return a < b || a != a ? a : b;
    case ReduceOp::max:
      return a > b || a != a ? a : b;
    case ReduceOp::prod:
      return product_of(a, b);
    default:
      return sum_of(a, b);
  }
}

template <DType Dtype>
struct Values {
  struct Shared {};
  GW_DEVICE Values(Shared&, const gw_cuda_exchange& exchange, uint32_t me) : e(exchange), rank(me) {}

  GW_DEVICE void work(const gw_cuda_unit& u, const Sources& sources) const {
    constexpr size_t kWidth = Dtype == DType::f32 ? 4 : 2;
    uint8_t* mine = static_cast<uint8_t*>(e.array[rank]) + u.at * kWidth;
    if (u.kind == GW_UNIT_SEND)
      copy_together(mine, e.frames[rank] + u.slot, u.count * kWidth);
    else if (u.kind == GW_UNIT_RECV)
      copy_together(sources.at[0], mine, u.count * kWidth);
    else
      fold(u, sources, mine);
  }

 private:
  GW_DEVICE void fold(const gw_cuda_unit& u, const Sources& sources, uint8_t* mine) const {
    const auto op = static_cast<ReduceOp>(e.op);
    const float scale = u.flags & GW_UNIT_COMPLETE ? e.scale : 1.0f;
    const auto source = [&](uint32_t i) { return sources.at[i] ? sources.at[i] : mine; };
    for (uint32_t at = threadIdx.x * kValues; at < u.count; at += kPeerThreads * kValues) {
      float acc[kValues], v[kValues];
      load(Dtype, source(0), at, u.count, acc);
#ifdef __CUDACC__
#pragma unroll 4
#endif
      for (uint32_t i = 1; i < sources.count; ++i) {
        load(Dtype, source(i), at, u.count, v);
        for (int k = 0; k < kValues; ++k) acc[k] = combine(op, acc[k], v[k]);
      }
      if (scale != 1.0f)
        for (int k = 0; k < kValues; ++k) acc[k] = product_of(acc[k], scale);
      store(Dtype, mine, at, u.count, acc);
    }
  }

  const gw_cuda_exchange& e;
  const uint32_t rank;
};

}  // namespace gw::cuda
