// Values one by one: identity (fp32), bf16, fp16, fp8_e4m3 and fp8_e5m2 without a block (codec/cast.hpp).
#include "cuda/kernels.cuh"
// then
#include "codec/minifloat.hpp"

namespace gw::cuda {

struct f32_t {
  uint32_t bits;
};
GW_DEVICE f32_t narrow_to(float f, f32_t) { return {bits_of(f)}; }
GW_DEVICE float widen(f32_t h) { return float_of(h.bits); }

namespace {

template <class Narrow>
class CastRow {
 public:
  static constexpr uint32_t kBytes = sizeof(Narrow), kMostBytes = kRow * kBytes;
  struct Tables {};
  static GW_DEVICE void fill(Tables&, uint32_t) {}
  GW_DEVICE CastRow(const CodeCall&, const Tables&) {}

  GW_DEVICE uint32_t row_bytes() const { return kMostBytes; }
  GW_DEVICE uint32_t short_bytes(uint32_t) const { return 0; }  // a block is one value: none is short
  GW_DEVICE void shorten(uint8_t*, uint32_t) const {}
  GW_DEVICE void lengthen(uint8_t*, uint32_t) const {}

  GW_DEVICE void encode(const Row& r, const float (&v)[kValues], float (&lost)[kValues]) const {
    Narrow n[kValues];
    for (int k = 0; k < kValues; ++k) {
      n[k] = narrow_to(v[k], Narrow{});
      lost[k] = finite_or_zero(v[k] - widen(n[k]));
    }
    __builtin_memcpy(__builtin_assume_aligned(r.payload + r.lane * sizeof(n), 8), n, sizeof(n));
  }
  GW_DEVICE void decode(const Row& r, float (&v)[kValues]) const {
    Narrow n[kValues];
    __builtin_memcpy(n, __builtin_assume_aligned(r.payload + r.lane * sizeof(n), 8), sizeof(n));
    for (int k = 0; k < kValues; ++k) v[k] = widen(n[k]);
  }
};

}  // namespace

int run_cast(const Task& t) {
  if (t.call.block != 1) return GW_CUDA_NO_KERNEL;
  switch (t.codec.id) {
    case 0:
      return run_rows<CastRow<f32_t>>(t.call, t.decode, t.where);
    case 1:
      return run_rows<CastRow<bf16_t>>(t.call, t.decode, t.where);
    case 2:
      return run_rows<CastRow<f16_t>>(t.call, t.decode, t.where);
    case 16:
      return run_rows<CastRow<e4m3_t>>(t.call, t.decode, t.where);
    case 17:
      return run_rows<CastRow<e5m2_t>>(t.call, t.decode, t.where);
    default:
      return GW_CUDA_NO_KERNEL;
  }
}

}  // namespace gw::cuda
