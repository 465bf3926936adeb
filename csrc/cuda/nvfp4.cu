// nvfp4 (codec/nvfp4.hpp): 16 values, of two neighbouring lanes, share a scale, and the 4096 of a thread block another.
#include "cuda/kernels.cuh"
#include "cuda/run_blocks.cuh"
// then
#include "codec/nvfp4.hpp"

namespace gw::cuda {
namespace {

constexpr uint32_t kScales = kBlock / NvFp4::kBlock;

class NvFp4Block {
 public:
  static constexpr int kResident = 4, kExchanging = 2;
  struct Shape {
    uint32_t bytes, scales;
  };
  static GW_INLINE Shape shape_of(const gw_cuda_codec&, uint32_t length) {
    return {static_cast<uint32_t>(NvFp4::super_bytes(length)),
            static_cast<uint32_t>(NvFp4::blocks_in(length))};
  }
  static GW_INLINE uint64_t key_of(uint32_t, uint64_t) { return 0; }  // it draws nothing
  struct Shared {
    alignas(16) uint8_t head[4 + kScales + 16];  // the scale of all, then the scales
    alignas(16) uint8_t codes[kBlock / 2 + 16];
    Together::Shared together;
  };

  GW_DEVICE NvFp4Block(const Block<NvFp4Block>& b, Together& together) : b_(b), together_(together) {}

  GW_DEVICE void encode(float (&v)[kHalves][kValues]) {
    uint32_t largest[kHalves] = {}, all = 0;
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h) {
      for (int k = 0; k < kValues; ++k) largest[h] = max_of(largest[h], magnitude(v[h][k]));
      largest[h] = block_max(largest[h], 2);
      all = max_of(all, largest[h] < kInfBits ? largest[h] : 0);
    }
    const float g = NvFp4::super_scale(together_.max(all)), inverse_g = g == 0 ? 0.0f : 1.0f / g;
    if (threadIdx.x == 0) *reinterpret_cast<uint32_t*>(b_.shared.head) = bits_of(g);
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h) {
      const bool lost = largest[h] >= kInfBits;
      const uint32_t s = lost ? NvFp4::kNanScale : g == 0 ? 0 : NvFp4::scale_code(largest[h], g);
      const float wide = E4M3::to_float(s), inverse = g == 0 ? 0.0f : inverse_g / wide, d = wide * g;
      uint32_t word = 0;
      for (int k = 0; k < kValues; ++k) {
        const uint32_t code = lost ? 0 : E2M1::to_code(v[h][k] * inverse);
        word |= code << (4 * k);
        v[h][k] = lost ? 0.0f : v[h][k] - E2M1::to_float(code) * d;
      }
      const uint32_t at = b_.at(h);
      if (threadIdx.x % 2 == 0) b_.shared.head[4 + at / NvFp4::kBlock] = static_cast<uint8_t>(s);
      *reinterpret_cast<uint32_t*>(b_.shared.codes + at / 2) = word;
    }
    __syncthreads();
    copy_out(b_.shared.head, b_.payload, head_bytes(), all_threads());
    copy_out(b_.shared.codes, b_.payload + head_bytes(), code_bytes(), all_threads());
  }

  GW_DEVICE void decode() {
    copy_in(b_.payload, b_.shared.head, head_bytes(), all_threads());
    copy_in(b_.payload + head_bytes(), b_.shared.codes, code_bytes(), all_threads());
    __syncthreads();
    const float g = float_of(*reinterpret_cast<const uint32_t*>(b_.shared.head));
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h) {
      const uint32_t at = b_.at(h);
      const float wide = E4M3::to_float(b_.shared.head[4 + at / NvFp4::kBlock]), d = wide * g;
      const uint32_t word = *reinterpret_cast<const uint32_t*>(b_.shared.codes + at / 2);
      float v[kValues];
      for (int k = 0; k < kValues; ++k) {
        v[k] = E2M1::to_float(word >> (4 * k) & 15u) * d;
        if (wide != wide) v[k] = wide;  // the CPU's NaN, where a GPU has one of its own
      }
      give(b_.call, b_.begin + at, v);
    }
  }

 private:
  GW_DEVICE uint32_t head_bytes() const { return 4 + b_.shape.scales; }
  GW_DEVICE uint32_t code_bytes() const { return (b_.length + 1) / 2; }

  const Block<NvFp4Block>& b_;
  Together& together_;
};

}  // namespace

int run_nvfp4(const Task& t) {
  if (t.codec.id != 21) return GW_CUDA_NO_KERNEL;
  return run_blocks<NvFp4Block>(t);
}

}  // namespace gw::cuda
