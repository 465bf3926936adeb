// Small floats under a scale per block: fp8_e4m3 and fp8_e5m2 with a block, mxfp8_e4m3, mxfp8_e5m2, mxfp4 (codec/scaled.hpp).
#include "cuda/kernels.cuh"
#include "cuda/lanes.cuh"
// then
#include "codec/fp8.hpp"
#include "codec/mx.hpp"

namespace gw::cuda {
namespace {

template <class Element, class Rule>
class ScaledRow {
 public:
  static constexpr int kBits = Element::kBits;
  static constexpr uint32_t kScale = Rule::kBytes, kMostBytes = kRow / 32 * (kScale + 32 * kBits / 8);
  struct Tables {};
  static GW_DEVICE void fill(Tables&, uint32_t) {}

  GW_DEVICE ScaledRow(const CodeCall& call, const Tables&)
      : block_(call.block), lanes_(call.block / kValues), bytes_(kScale + call.block * kBits / 8) {}

  GW_DEVICE uint32_t row_bytes() const { return kRow / block_ * bytes_; }
  GW_DEVICE uint32_t short_bytes(uint32_t rest) const { return kScale + (rest * kBits + 7) / 8; }
  GW_DEVICE void shorten(uint8_t*, uint32_t) const {}  // what travels are its first bytes
  GW_DEVICE void lengthen(uint8_t* block, uint32_t rest) const {
    for (uint32_t i = short_bytes(rest); i < bytes_; ++i) block[i] = 0;
  }

  GW_DEVICE void encode(const Row& r, const float (&v)[kValues], float (&lost)[kValues]) const {
    uint32_t largest = 0;
    for (int k = 0; k < kValues; ++k) largest = max_of(largest, magnitude(v[k]));
    largest = block_max(largest, lanes_);
    const bool nan = largest >= kInfBits;
    const BlockScale scale = Rule::of(nan ? 0 : largest);
    uint32_t q[kValues];
    for (int k = 0; k < kValues; ++k) {
      q[k] = nan ? 0 : Element::to_code(v[k] * scale.inverse);
      lost[k] = nan ? 0.0f : v[k] - Element::to_float(q[k]) * scale.d;
    }
    uint8_t* block = r.payload + r.lane / lanes_ * bytes_;
    if (r.lane % lanes_ == 0) {
      const uint32_t bits = nan ? Rule::kNan : scale.bits;
      for (uint32_t i = 0; i < kScale; ++i) block[i] = static_cast<uint8_t>(bits >> (8 * i));
    }
    uint8_t* to = block + kScale + r.lane % lanes_ * kBits;  // 8 codes take kBits bytes
    for (int i = 0; i < kBits; ++i)
      to[i] = static_cast<uint8_t>(kBits == 8 ? q[i] : q[2 * i & 7] | q[(2 * i & 7) + 1] << 4);
  }

  GW_DEVICE void decode(const Row& r, float (&v)[kValues]) const {
    const uint8_t* block = r.payload + r.lane / lanes_ * bytes_;
    const float d = Rule::get(reinterpret_cast<const std::byte*>(block));
    const uint8_t* from = block + kScale + r.lane % lanes_ * kBits;
    for (int k = 0; k < kValues; ++k) {
      const uint32_t code = kBits == 8 ? from[k] : from[k / 2] >> (k % 2 * 4) & 15u;
      v[k] = scaled(Element::to_float(code), d);
    }
  }

 private:
  const uint32_t block_, lanes_, bytes_;
};

}  // namespace

int run_scaled(const Task& t) {
  switch (t.codec.id) {
    case 16:
      return run_rows<ScaledRow<E4M3, Bf16Scale<E4M3>>>(t.call, t.decode, t.where);
    case 17:
      return run_rows<ScaledRow<E5M2, Bf16Scale<E5M2>>>(t.call, t.decode, t.where);
    case 18:
      return run_rows<ScaledRow<E4M3, E8M0Scale<E4M3>>>(t.call, t.decode, t.where);
    case 19:
      return run_rows<ScaledRow<E5M2, E8M0Scale<E5M2>>>(t.call, t.decode, t.where);
    case 20:
      return run_rows<ScaledRow<E2M1, E8M0Scale<E2M1>>>(t.call, t.decode, t.where);
    default:
      return GW_CUDA_NO_KERNEL;
  }
}

}  // namespace gw::cuda
