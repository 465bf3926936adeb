// Blocks of codes under one bf16 scale (codec/quant.hpp, codec/sign.hpp) as rows of a warp.
#pragma once
#include "cuda/lanes.cuh"
#include "cuda/levels.cuh"
#include "cuda/rows.cuh"
#include "cuda/slices.cuh"

namespace gw::cuda {

template <class Grid>
class QuantRow {
 public:
  static constexpr int kBits = Grid::kBits;
  static constexpr uint32_t kMostBytes = kRow / 32 * (2 + 32 * kBits / 8);
  using Tables = typename Grid::Tables;
  static GW_DEVICE void fill(Tables& t, uint32_t thread) { Grid::fill(t, thread); }

  GW_DEVICE QuantRow(const CodeCall& call, const Tables& tables)
      : tables_(tables),
        key_(call.key),
        block_(call.block),
        lanes_(call.block / kValues),
        bytes_(2 + call.block * kBits / 8) {}

  GW_DEVICE uint32_t row_bytes() const { return kRow / block_ * bytes_; }
  GW_DEVICE uint32_t short_bytes(uint32_t rest) const { return 2 + short_slices<kBits>(block_, rest); }
  GW_DEVICE void shorten(uint8_t* block, uint32_t rest) const {
    shorten_slices<kBits>(block + 2, block_, rest);
  }
  GW_DEVICE void lengthen(uint8_t* block, uint32_t rest) const {
    widen_slices<kBits>(block + 2, block_, rest);
  }

  GW_DEVICE void encode(const Row& r, const float (&v)[kValues], float (&lost)[kValues]) const {
    uint32_t stat = 0;
    for (int k = 0; k < kValues; ++k) stat = max_of(stat, statistic(v[k]));
    const Scale scale = Grid::scale(block_max(stat, lanes_));
    const bool nan = scale.bits == kNanScale;

    Draws draws{};
    if (Grid::kRandom) draws = Key{key_}.at(r.element);
    int fine[kValues];
    for (int k = 0; k < kValues; ++k)
      fine[k] = Grid::fine(v[k], scale.inverse, draws, static_cast<uint32_t>(k));
    int meeting = 0;
    if (Grid::kMeets) {
      int squares = 0;
      for (int k = 0; k < kValues; ++k) squares += fine[k] * fine[k];
      meeting = meeting_of_level2(block_sum(squares, lanes_), __ffs(static_cast<int>(block_)) - 1);
    }
    uint8_t code[kValues];
    int level[kValues];
    for (int k = 0; k < kValues; ++k) {
      code[k] = Grid::code(tables_, fine[k], meeting);
      level[k] = Grid::level(tables_, code[k]);
    }
    uint32_t bits = scale.bits;
    if (Grid::kFitted) {
      int over = 0, under = 0;
      for (int k = 0; k < kValues; ++k) {
        over += fine[k] * level[k];
        under += level[k] * level[k];
      }
      over = block_sum(over, lanes_);
      under = block_sum(under, lanes_);
      if (!nan) bits = fitted_bits(over, under, scale.d);
    }
    const float d = float_of(bits << 16);
    for (int k = 0; k < kValues; ++k) {
      lost[k] = nan ? 0.0f : v[k] - static_cast<float>(level[k]) * d;
      if (nan) code[k] = 0;
    }

    uint8_t* block = r.payload + r.lane / lanes_ * bytes_;
    if (r.lane % lanes_ == 0) put_half(block, bits);
    if constexpr (kBits == 8) {
      uint32_t words[2];
      __builtin_memcpy(words, code, kValues);
      uint8_t* to = block + 2 + r.lane % lanes_ * kValues;
      put_word(to, words[0]);
      put_word(to + 4, words[1]);
    } else {
      pack_row<kBits>(code, r.codes, block_, bytes_, r.payload + 2, r.lane);
    }
  }

  GW_DEVICE void decode(const Row& r, float (&v)[kValues]) const {
    const uint8_t* block = r.payload + r.lane / lanes_ * bytes_;
    const float d = float_of(get_half(block) << 16);
    uint8_t code[kValues];
    unpack_eight<kBits>(block + 2, block_, r.lane % lanes_ * kValues, code);
    for (int k = 0; k < kValues; ++k) v[k] = scaled(static_cast<float>(Grid::level(tables_, code[k])), d);
  }

 private:
  const Tables& tables_;
  const uint64_t key_;
  const uint32_t block_, lanes_, bytes_;
};

}  // namespace gw::cuda
