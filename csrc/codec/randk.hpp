// randk: of each block of 4096 values k travel, at places drawn from (seed, step, block): every rank draws the same ones, so
// no index travels, and a sum over ranks has no more entries than each of them. What is not sent stays in the loss.
//
// The draw: the block is cut into k stretches of floor or ceil(4096 / k) elements, one element is drawn from each, and the
// whole is rotated by a drawn amount. Places are distinct, and each element is chosen with probability k / 4096 exactly
// (up to the 2^-32 of one draw): result * 4096 / k is an unbiased estimate of x. The codec itself does not scale, so
// that error feedback works and an owner may encode a sum again at the same places.
//
// A value that is not finite must not be dropped in silence: it turns all values sent of its block into NaN.
//
// Block: [k values]. Cost: one vectorised read of the block (for the check), k draws.
// Error bound: E |x - x'|^2 = (1 - k/4096) |x|^2 over the draws, plus that of the values as in topk.hpp.
#pragma once
#include "codec/random.hpp"
#include "codec/sparse_values.hpp"

namespace gw::GW_ISA {

struct RandK {
  static constexpr const char* kName = "randk";
  static constexpr bool kLossy = true;
  static constexpr const char* kParameters = "ratio, values, seed";
  static constexpr uint32_t kBlock = kSparseBlock;

  static CodecShape shape(const CodecParams& p) {
    const double ratio = p.ratio == 0 ? 0.01 : p.ratio;
    if (!(ratio > 0 && ratio <= 1))
      fail_argument("codec randk: ratio must be above 0 and at most 1, got " + std::to_string(p.ratio));
    CodecShape s{.block = kBlock};
    s.k = max_of(uint32_t{1}, static_cast<uint32_t>(ratio * kBlock + 0.5));
    s.values = value_kind(p.values, kName);
    s.seed = static_cast<uint32_t>(p.seed);
    return s;
  }
  static uint32_t pack(const CodecShape& s) { return (s.k - 1) | (s.values << 12) | (s.seed << 16); }
  static bool unpack(uint32_t wire, CodecShape& s) {
    s = {.block = kBlock, .k = (wire & 0xfffu) + 1, .values = (wire >> 12) & 3u};
    s.seed = wire >> 16;
    return true;  // two bits must be 0: the caller packs again and compares
  }
  // Four decimals of the ratio give k back: the text can be parsed again.
  static std::string arguments(const CodecShape& s) {
    std::string ratio = std::to_string(static_cast<double>(s.k) / kBlock).substr(0, 6);
    while (ratio.size() > 3 && ratio.back() == '0') ratio.pop_back();
    return "ratio=" + ratio + ", values=" + kValueNames[s.values] +
           (s.seed ? ", seed=" + std::to_string(s.seed) : "");
  }

  static size_t encoded_bytes(const CodecShape& s, size_t count) {
    const size_t rest = count % kBlock;
    return count / kBlock * value_bytes(s.values, s.k) +
           (rest ? value_bytes(s.values, kept_of(s.k, rest)) : 0);
  }

  static void encode(const CodecShape& s, const float* x, const Piece& piece, std::byte* out, float* loss) {
    float sent[kBlock], decoded[kBlock];
    uint32_t places[kBlock];
    for (size_t i = 0; i < piece.count; i += kBlock) {
      const size_t length = min_of(size_t{kBlock}, piece.count - i), n = draw(s, piece, i, length, places);
      uint32_t largest = 0;
      for (size_t j = 0; j < length; ++j) largest = max_of(largest, magnitude(x[i + j]));
      const bool finite_block = largest < kInfBits;
      for (size_t j = 0; j < n; ++j) sent[j] = finite_block ? x[i + places[j]] : float_of(0x7fc00000u);
      put_values(s.values, sent, n, out);
      if (loss) {
        get_values(s.values, out, n, decoded);
        keep_finite(x + i, length, loss + i);
        for (size_t j = 0; j < n; ++j) {
          float& left = loss[i + places[j]];
          left = finite_or_zero(left - decoded[j]);
        }
      }
      out += value_bytes(s.values, n);
    }
  }
  static void decode(const CodecShape& s, const std::byte* in, const Piece& piece, float* out) {
    if (piece.count) __builtin_memset(out, 0, piece.count * sizeof(float));
    scatter<false>(s, in, piece, out);
  }
  static void decode_add(const CodecShape& s, const std::byte* in, const Piece& piece, float* acc) {
    scatter<true>(s, in, piece, acc);
  }

  // Of the draws of one block: all of a step's share step_key.
  static GW_INLINE uint64_t step_key(uint32_t seed, uint64_t step) { return mix64(mix64(seed) ^ step); }
  static GW_INLINE uint64_t block_key(uint64_t step_key, uint64_t block) { return mix64(step_key ^ block); }
  // A draw below `range` from the upper 32 bits.
  static GW_INLINE uint32_t below(uint64_t random, uint32_t range) {
    return static_cast<uint32_t>(((random >> 32) * range) >> 32);
  }

 private:
  static size_t draw(const CodecShape& s, const Piece& piece, size_t at, size_t length, uint32_t* places) {
    const auto n = static_cast<uint32_t>(kept_of(s.k, length)), whole = static_cast<uint32_t>(length);
    const uint64_t key = block_key(step_key(s.seed, piece.step), (piece.first + at) / kBlock);
    const uint32_t turn = below(mix64(key), whole), width = whole / n, surplus = whole % n;
    uint32_t begin = 0, carried = 0;
    for (uint32_t j = 0; j < n; ++j) {
      carried += surplus;
      const uint32_t longer = carried >= n;
      carried -= longer ? n : 0;
      const uint32_t place = begin + below(mix64(key + 1 + j), width + longer) + turn;
      places[j] = place >= whole ? place - whole : place;
      begin += width + longer;
    }
    return n;
  }

  template <bool Add>
  static void scatter(const CodecShape& s, const std::byte* in, const Piece& piece, float* out) {
    uint32_t places[kBlock];
    float v[kBlock];
    for (size_t i = 0; i < piece.count; i += kBlock) {
      const size_t length = min_of(size_t{kBlock}, piece.count - i), n = draw(s, piece, i, length, places);
      get_values(s.values, in, n, v);
      for (size_t j = 0; j < n; ++j) {
        float& to = out[i + places[j]];
        to = Add ? to + v[j] : v[j];
      }
      in += value_bytes(s.values, n);
    }
  }
};

GW_CODEC(25, RandK)

}  // namespace gw::GW_ISA
