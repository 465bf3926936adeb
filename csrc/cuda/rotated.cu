// rotated4: random signs, a Hadamard transform of 128 values, 16 Lloyd-Max levels (codec/rotated4.hpp). A block is 16 lanes;
// distances of 64 to 8 are exchanges between lanes, of 4 to 1 inside one, in the order of codec/hadamard.hpp.
#include "cuda/kernels.cuh"
#include "cuda/lanes.cuh"
#include "cuda/levels.cuh"
#include "cuda/slices.cuh"

namespace gw::cuda {
namespace {

constexpr uint32_t kBlock = 128, kLanes = kBlock / kValues, kBytes = 2 + kBlock / 2;

GW_DEVICE void hadamard(float (&y)[kValues], uint32_t lane) {
  for (uint32_t distance = kLanes / 2; distance > 0; distance /= 2)
    for (int k = 0; k < kValues; ++k) {
      const float other = __shfl_xor_sync(~0u, y[k], static_cast<int>(distance));
      y[k] = lane & distance ? other - y[k] : y[k] + other;
    }
  for (int distance = kValues / 2; distance > 0; distance /= 2)
    for (int k = 0; k < kValues; ++k)
      if (!(k & distance)) {
        const float a = y[k], b = y[k | distance];
        y[k] = a + b;
        y[k | distance] = a - b;
      }
}

// The signs of a lane's values, a bit each. Element j of a block has bit j / 16 of the number drawn for element j % 16. `block`:
// the place of the block.
GW_DEVICE uint32_t signs_of(const Key& key, uint64_t block, uint32_t lane) {
  const Draws draws = key.at(block);
  const uint32_t in_block = lane % kLanes;
  uint32_t signs = 0;
#ifdef __CUDACC__
#pragma unroll 1  // eight draws side by side took more registers than there are (sm_80, sm_100)
#endif
  for (uint32_t k = 0; k < kValues; ++k)
    signs |= (draws(in_block % 2 * kValues + k) >> (in_block / 2) & 1u) << k;
  return signs;
}
GW_DEVICE void flip(float (&y)[kValues], uint32_t signs, float factor) {
  for (int k = 0; k < kValues; ++k) y[k] = float_of(bits_of(y[k]) ^ (signs >> k << 31)) * factor;
}

class RotatedRow {
 public:
  static constexpr uint32_t kMostBytes = kRow / kBlock * kBytes;
  static constexpr bool kSharedKey = true;  // all ranks share the signs
  using Grid = LloydGrid<4>;
  using Tables = Grid::Tables;
  static GW_DEVICE void fill(Tables& t, uint32_t thread) { Grid::fill(t, thread); }

  GW_DEVICE RotatedRow(const CodeCall& call, const Tables& tables)
      : tables_(tables), key_(call.key), unbiased_(call.values == 1) {}

  GW_DEVICE uint32_t row_bytes() const { return kMostBytes; }
  GW_DEVICE uint32_t short_bytes(uint32_t) const { return kBytes; }  // sent whole
  GW_DEVICE void shorten(uint8_t*, uint32_t) const {}
  GW_DEVICE void lengthen(uint8_t*, uint32_t) const {}

  GW_DEVICE void encode(const Row& r, const float (&v)[kValues], float (&lost)[kValues]) const {
    float y[kValues];
    for (int k = 0; k < kValues; ++k) y[k] = v[k];
    // 2^-7 makes up for the transform's two times 128, and keeps large values from overflowing in it
    const uint32_t signs = signs_of(r);
    flip(y, signs, 0x1p-7f);
    hadamard(y, r.lane);
    uint32_t stat = 0;
    for (int k = 0; k < kValues; ++k) stat = max_of(stat, statistic(y[k]));
    const Scale scale = Grid::scale(block_max(stat, kLanes));
    const bool nan = scale.bits == kNanScale;
    int fine[kValues];
    uint8_t code[kValues];
    for (int k = 0; k < kValues; ++k) {
      fine[k] = code_of<8>(y[k], scale.inverse);
      code[k] = nan ? 0 : Grid::code(tables_, fine[k], 0);
    }
    pack_row<4>(code, r.codes, kBlock, kBytes, r.payload + 2, r.lane);
    // codes are read back from now on, to free the registers that they were in
    const uint2 codes = *reinterpret_cast<const uint2*>(r.codes + r.lane * kValues);
    __builtin_memcpy(code, &codes, kValues);
    int over = 0, under = 0;
    for (int k = 0; k < kValues; ++k) {
      const int level = Grid::level(tables_, code[k]);
      over += fine[k] * (unbiased_ ? fine[k] : level);
      under += (unbiased_ ? fine[k] : level) * level;
    }
    over = block_sum(over, kLanes);
    under = block_sum(under, kLanes);
    const uint32_t bits = nan ? kNanScale : fitted_bits(over, under, scale.d);
    if (r.lane % kLanes == 0) put_half(r.payload + r.lane / kLanes * kBytes, bits);
    if (!r.wants_loss) return;
    restore(r, codes, bits, signs, y);
    for (int k = 0; k < kValues; ++k) lost[k] = finite_or_zero(v[k] - y[k]);
  }

  GW_DEVICE void decode(const Row& r, float (&v)[kValues]) const {
    const uint8_t* block = r.payload + r.lane / kLanes * kBytes;
    uint8_t code[kValues];
    unpack_eight<4>(block + 2, kBlock, r.lane % kLanes * kValues, code);
    uint2 codes;
    __builtin_memcpy(&codes, code, kValues);
    restore(r, codes, get_half(block), signs_of(r), v);
  }

 private:
  GW_DEVICE uint32_t signs_of(const Row& r) const {
    return cuda::signs_of(key_, r.element - r.lane % kLanes * kValues, r.lane);
  }
  GW_DEVICE void restore(const Row& r, uint2 codes, uint32_t bits, uint32_t signs,
                         float (&y)[kValues]) const {
    const float d = float_of(bits << 16);
    uint8_t code[kValues];
    __builtin_memcpy(code, &codes, kValues);
    for (int k = 0; k < kValues; ++k) y[k] = static_cast<float>(Grid::level(tables_, code[k])) * d;
    hadamard(y, r.lane);
    flip(y, signs, 1.0f);
    if (d != d)
      for (int k = 0; k < kValues; ++k) y[k] = float_of(0x7fc00000u);
  }

  const Tables& tables_;
  const Key key_;
  const bool unbiased_;
};

}  // namespace

int run_rotated(const Task& t) {
  if (t.codec.id != 15) return GW_CUDA_NO_KERNEL;
  CodeCall call = t.call;
  call.key = Key(t.codec.seed, t.step, 0).key;  // all ranks share the signs
  return run_rows<RotatedRow>(call, t.decode, t.where);
}

}  // namespace gw::cuda
