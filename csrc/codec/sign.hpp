// sign: one bit an element and a bf16 scale a block, the mean magnitude, which fits best: 1.125 bits at the default block
// of 128. Decodes to +-scale, zeros to +scale.
// Error bound of a finite block: |x - x'|_2 <= (1 + 2^-6) |x|_2 sqrt(1 - (mean|x|)^2 / mean x^2 ) + B max|x| 2^-7; for
// N(0, 1) that is 60.3 % (sqrt(1 - 2 / pi)). A contraction of blocks, not of elements.
#pragma once
#include "codec/quant.hpp"

namespace gw::GW_ISA {

struct SignGrid {
  static constexpr int kBits = 1, kScaleBits = 8;
  static constexpr bool kStochastic = false, kFitted = true;

  template <int B>
  static GW_INLINE void code(const int8_t* q, uint8_t* codes) {
    for (int j = 0; j < B; ++j) codes[j] = q[j] >= 0;
  }
  template <int B>
  static GW_INLINE void levels(const uint8_t* codes, int8_t* out) {
    for (int j = 0; j < B; ++j) out[j] = static_cast<int8_t>(2 * codes[j] - 1);
  }
};

struct Sign {
  static constexpr const char* kName = "sign";
  static constexpr const char* kParameters = "block";
  static constexpr bool kLossy = true;

  static CodecShape shape(const CodecParams& p) {
    CodecShape s{.block = static_cast<uint32_t>(p.block == 0 ? 128 : p.block)};
    if (!valid(s.block))
      fail_argument("codec sign: block must be 32, 64 or 128, got " + std::to_string(p.block));
    return s;
  }
  static uint32_t pack(const CodecShape& s) { return s.block; }
  static bool unpack(uint32_t wire, CodecShape& s) {
    s = {.block = wire};
    return valid(wire);
  }
  static std::string arguments(const CodecShape& s) { return "block=" + std::to_string(s.block); }
  static size_t encoded_bytes(const CodecShape& s, size_t count) {
    const size_t rest = count % s.block;
    return count / s.block * (2 + s.block / 8) + (rest ? 2 + sliced_bytes(1, s.block, rest) : 0);
  }

  static void encode(const CodecShape& s, const float* x, const Piece& p, std::byte* out, float* loss) {
    const Key key(0, 0, 0);
    with_size(s, [&](auto blocks) { blocks.encode_all(x, p, key, out, loss); });
  }
  static void decode(const CodecShape& s, const std::byte* in, const Piece& p, float* out) {
    with_size(s, [&](auto blocks) { blocks.template decode_all<false>(in, p.count, out); });
  }
  static void decode_add(const CodecShape& s, const std::byte* in, const Piece& p, float* acc) {
    with_size(s, [&](auto blocks) { blocks.template decode_all<true>(in, p.count, acc); });
  }

 private:
  static bool valid(uint32_t block) { return block == 32 || block == 64 || block == 128; }
  template <class F>
  static void with_size(const CodecShape& s, F f) {
    if (s.block == 32) return f(QuantBlocks<SignGrid, 32>{});
    if (s.block == 64) return f(QuantBlocks<SignGrid, 64>{});
    f(QuantBlocks<SignGrid, 128>{});
  }
};

GW_CODEC(14, Sign)

}  // namespace gw::GW_ISA
