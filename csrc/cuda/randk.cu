// randk (codec/randk.hpp): of each block of 4096 values k at drawn places, each of which a thread draws for itself.
#include "cuda/kernels.cuh"
#include "cuda/run_blocks.cuh"
#include "cuda/sparse.cuh"
// then
#include "codec/randk.hpp"

namespace gw::cuda {
namespace {

class RandKBlock {
 public:
  static constexpr int kResident = 4, kExchanging = 1;
  using Shape = SparseShape;
  static GW_INLINE Shape shape_of(const gw_cuda_codec& codec, uint32_t length) {
    const size_t kept = kept_of(codec.k, length), bytes = value_bytes(codec.values, kept);
    return {static_cast<uint32_t>(bytes), static_cast<uint32_t>(kept), static_cast<uint32_t>(bytes)};
  }
  static GW_INLINE uint64_t key_of(uint32_t seed, uint64_t step) { return RandK::step_key(seed, step); }
  struct Shared {
    alignas(16) float x[kBlock];
    alignas(16) uint8_t values[SparseValues::kRoom];
    Together::Shared together;
  };

  GW_DEVICE RandKBlock(const Block<RandKBlock>& b, Together& together)
      : b_(b),
        together_(together),
        values_(b.call.values, b.shared.values),
        key_(RandK::block_key(b.call.key, (b.call.first + b.begin) / kBlock)),
        turn_(RandK::below(mix64(key_), b.length)) {}

  GW_DEVICE void encode(float (&v)[kHalves][kValues]) {
    float* x = b_.shared.x;
    uint32_t largest = 0;
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h)
      for (uint32_t k = 0; k < kValues; ++k) {
        x[b_.at(h) + k] = v[h][k];
        largest = max_of(largest, magnitude(v[h][k]));
      }
    const uint32_t lost = all_ones_if(together_.max(largest) >= kInfBits);
    const auto sent = [&](uint32_t place) { return float_of(pick(lost, 0x7fc00000u, bits_of(x[place]))); };
    if (values_.coded()) {
      values_.clear_codes(b_.shape.kept);
      uint32_t stat = 0;
      for (uint32_t j = threadIdx.x; j < b_.shape.kept; j += kThreads)
        stat = max_of(stat, statistic(sent(place_of(j))));
      values_.set_scale(together_.max(stat));
    }
    for (uint32_t j = threadIdx.x; j < b_.shape.kept; j += kThreads) {
      const uint32_t place = place_of(j);
      const float decoded = values_.put(j, sent(place));
      x[place] = finite_or_zero(x[place]) - decoded;
    }
    __syncthreads();
    copy_out(b_.shared.values, b_.payload, b_.shape.value_bytes, all_threads());
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h)
      for (uint32_t k = 0; k < kValues; ++k) v[h][k] = finite_or_zero(x[b_.at(h) + k]);
  }

  GW_DEVICE void decode() {
    if (!b_.call.add) give_zeros(b_);
    copy_in(b_.payload, b_.shared.values, b_.shape.value_bytes, all_threads());
    __syncthreads();
    for (uint32_t j = threadIdx.x; j < b_.shape.kept; j += kThreads)
      give_one(b_, place_of(j), values_.get(j));
  }

 private:
  GW_DEVICE uint32_t place_of(uint32_t j) const {
    const uint32_t n = b_.shape.kept, begin = j * b_.length / n, end = (j + 1) * b_.length / n;
    const uint32_t place = begin + RandK::below(mix64(key_ + 1 + j), end - begin) + turn_;
    return place >= b_.length ? place - b_.length : place;
  }

  const Block<RandKBlock>& b_;
  Together& together_;
  SparseValues values_;
  const uint64_t key_;
  const uint32_t turn_;
};

}  // namespace

int run_randk(const Task& t) {
  if (t.codec.id != 25) return GW_CUDA_NO_KERNEL;
  return run_blocks<RandKBlock>(t);
}

}  // namespace gw::cuda
