// What topk and randk share: bits and kept values (codec/sparse_values.hpp) in shared memory, and single elements.
#pragma once
#include "cuda/blocks.cuh"
// then
#include "codec/sparse_values.hpp"

namespace gw::cuda {

struct SparseShape {
  uint32_t bytes, kept, value_bytes;
};

// `width` bits, at most 12, at any bit of words that were 0.
GW_DEVICE void set_bits(uint32_t* words, uint32_t bit, uint32_t width, uint32_t value) {
  if (width == 0) return;
  const uint64_t v = uint64_t{value} << (bit % 32);
  atomicOr(words + bit / 32, static_cast<uint32_t>(v));
  if (v >> 32) atomicOr(words + bit / 32 + 1, static_cast<uint32_t>(v >> 32));
}
// Up to 32 bits. Reads the word behind them as well.
GW_DEVICE uint32_t get_bits(const uint32_t* words, uint32_t bit, uint32_t width) {
  const uint64_t v = uint64_t{words[bit / 32 + 1]} << 32 | words[bit / 32];
  return static_cast<uint32_t>(v >> (bit % 32) & ((uint64_t{1} << width) - 1));
}
GW_DEVICE void clear(uint32_t* words, uint32_t n) {
  for (uint32_t i = threadIdx.x; i < n; i += kThreads) words[i] = 0;
}

// The values that a block keeps, staged: room for 4 bytes of each and 16 more.
class SparseValues {
 public:
  static constexpr uint32_t kRoom = 4 * kBlock + 16;
  GW_DEVICE SparseValues(uint32_t kind, uint8_t* staged) : kind_(kind), staged_(staged) {}

  // Codes have a scale: of the largest statistic() of the values.
  GW_DEVICE bool coded() const { return kind_ == kValuesInt8 || kind_ == kValuesInt4; }
  GW_DEVICE void set_scale(uint32_t stat) {
    scale_ = kind_ == kValuesInt8 ? scale_of<8>(stat) : scale_of<4>(stat);
    if (threadIdx.x == 0) set_bits(words(), 0, 16, scale_.bits);
  }
  // Before set_scale and put; a barrier must follow.
  GW_DEVICE void clear_codes(uint32_t n) { clear(words(), n / 4 + 2); }

  // Returns what value j will decode to.
  GW_DEVICE float put(uint32_t j, float v) const {
    if (kind_ == kValuesFp32) {
      words()[j] = bits_of(v);
      return v;
    }
    if (kind_ == kValuesBf16) {
      const bf16_t h = narrow_to(v, bf16_t{});
      put_half(staged_ + 2 * j, h.bits);
      return widen(h);
    }
    const int32_t code = scale_.bits == kNanScale ? 0
                         : kind_ == kValuesInt8   ? code_of<8>(v, scale_.inverse)
                                                  : code_of<4>(v, scale_.inverse);
    const auto bits = static_cast<uint32_t>(code);
    if (kind_ == kValuesInt8)
      staged_[2 + j] = static_cast<uint8_t>(bits);
    else
      set_bits(words(), 16 + 4 * j, 4, bits & 15u);
    return static_cast<float>(code) * scale_.d;
  }
  GW_DEVICE float get(uint32_t j) const {
    if (kind_ == kValuesFp32) return float_of(words()[j]);
    if (kind_ == kValuesBf16) return widen(bf16_t{*reinterpret_cast<const uint16_t*>(staged_ + 2 * j)});
    const uint32_t bits = kind_ == kValuesInt8 ? uint32_t{staged_[2 + j]} << 24
                                               : uint32_t{staged_[2 + j / 2]} >> (4 * (j % 2)) << 28;
    return scaled(static_cast<float>(static_cast<int32_t>(bits) >> (kind_ == kValuesInt8 ? 24 : 28)),
                  float_of(get_half(staged_) << 16));
  }

 private:
  GW_DEVICE uint32_t* words() const { return reinterpret_cast<uint32_t*>(staged_); }

  const uint32_t kind_;
  uint8_t* const staged_;
  Scale scale_{};
};

// All values of the block become 0; a barrier must follow.
template <class Codec>
GW_DEVICE void give_zeros(const Block<Codec>& b) {
  const float zeros[kValues] = {};
  for (uint32_t h = 0; h < kHalves; ++h)
    store(b.call.dtype, b.call.array, b.begin + b.at(h), b.call.count, zeros);
}
// One value of the block; `place` may be any number.
template <class Codec>
GW_DEVICE void give_one(const Block<Codec>& b, uint32_t place, float v) {
  if (place >= b.length) return;
  const size_t at = b.begin + place;
  store_one(b.call.dtype, b.call.array, at,
            b.call.add ? sum_of(load_one(b.call.dtype, b.call.array, at), v) : v);
}

}  // namespace gw::cuda
