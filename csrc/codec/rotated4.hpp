// rotated4: 4 bits an element after a random rotation, 4.125 with the scale. Each block of 128 values is multiplied by
// random signs and transformed (hadamard.hpp), which makes almost any values look normally distributed; then the 16
// Lloyd-Max levels of levels.hpp fit them, outliers or not: 9 % error on Gaussian, Laplace, Student-t and lognormal values
// alike, where int4 goes up to 16 %. (Ailon and Chazelle 2006; Suresh et al. 2017; DRIVE and EDEN, Vargaftik et al.
// 2021, 2022.)
//
// The signs are a function of seed, step and element (random.hpp): element j of a block has bit j / 16 of the number drawn
// for element j % 16. All ranks share them, so a sum of decoded values is one of rotated values.
//
// scale = "least-squares": <y, l> / <l, l> for rotated values y and their levels l: the smallest error, and a contraction.
// scale = "unbiased": <y, y> / <y, l>, EDEN's: E[x'] = x over the signs, up to what 128 signs can do; squared error
// D / (1 - D). Averages over many steps or ranks then lose their error.
//
// Layout: bf16 scale, 64 bytes of codes as int4; a short last block is filled with zeros and sent whole.
// Error bound of a finite block: |x - x'|_2 <= 0.47 |x|_2 + 2^-112. With the largest |y| = 1: the largest keeps its value,
// and the squared error of the 127 others over |y|^2 is greatest where each of them is just below 6 / 128 (half the
// lowest level, and half a fine code) and becomes 0: 127 (6/128)^2 / (1 + 127 (6/128)^2) = 0.47^2. The fit only lowers it.
// Values above 2^120 in magnitude may decode to Inf.
#pragma once
#include <string>

#include "codec/hadamard.hpp"
#include "codec/quant.hpp"

namespace gw::GW_ISA {

struct Rotated4 {
  static constexpr const char* kName = "rotated4";
  static constexpr const char* kParameters = "block, scale, seed";
  static constexpr bool kLossy = true;
  static constexpr int kBlock = kHadamard, kBytes = 2 + kBlock / 2;
  enum ScaleKind : uint32_t { kLeastSquares = 0, kUnbiased = 1 };

  static CodecShape shape(const CodecParams& p) {
    if (p.block != 0 && p.block != kBlock)
      fail_argument("codec rotated4: block is fixed at 128, got " + std::to_string(p.block));
    if (!p.scale.empty() && p.scale != "least-squares" && p.scale != "unbiased")
      fail_argument("codec rotated4: scale must be least-squares or unbiased, got \"" + p.scale + "\"");
    return {.block = kBlock,
            .values = p.scale == "unbiased" ? kUnbiased : kLeastSquares,
            .seed = static_cast<uint32_t>(p.seed)};
  }
  static uint32_t pack(const CodecShape& s) { return s.values | s.seed << 16; }
  static bool unpack(uint32_t wire, CodecShape& s) {
    s = {.block = kBlock, .values = wire & 0xffffu, .seed = wire >> 16};
    return s.values <= kUnbiased;
  }
  static std::string arguments(const CodecShape& s) {
    return std::string("scale=") + (s.values == kUnbiased ? "unbiased" : "least-squares") +
           ", seed=" + std::to_string(s.seed);
  }
  static size_t encoded_bytes(const CodecShape&, size_t count) {
    return (count + kBlock - 1) / kBlock * kBytes;
  }

  static void encode(const CodecShape& s, const float* x, const Piece& p, std::byte* out, float* loss) {
    const Key key(s.seed, p.step, 0);
    for (size_t at = 0; at < p.count; at += kGroup * kBlock) {
      alignas(64) float y[kGroup * kBlock];
      const size_t n = min_of(p.count - at, size_t{kGroup * kBlock});
      const int blocks = static_cast<int>((n + kBlock - 1) / kBlock);
      __builtin_memcpy(y, x + at, n * sizeof(float));
      __builtin_memset(y + n, 0, (static_cast<size_t>(blocks) * kBlock - n) * sizeof(float));
      for (int g = 0; g < blocks; ++g) {
        // 2^-7 makes up for the transform's two times 128, and keeps large values from overflowing in it
        flip(y + g * kBlock, key.at(p.first + at + static_cast<size_t>(g) * kBlock), 0x1p-7f);
        hadamard(y + g * kBlock);
      }
      quantize(s, y, blocks, out);
      if (loss) {
        alignas(64) float back[kBlock];
        for (size_t i = 0; i < n; i += kBlock) {
          const std::byte* block = out + i / kBlock * kBytes;
          restore(block, key.at(p.first + at + i), back);
          const size_t m = min_of(size_t{kBlock}, n - i);
          GW_IVDEP
          for (size_t j = 0; j < m; ++j) loss[at + i + j] = finite_or_zero(x[at + i + j] - back[j]);
        }
      }
      out += blocks * kBytes;
    }
  }
  static void decode(const CodecShape& s, const std::byte* in, const Piece& p, float* out) {
    decode_any<false>(s, in, p, out);
  }
  static void decode_add(const CodecShape& s, const std::byte* in, const Piece& p, float* acc) {
    decode_any<true>(s, in, p, acc);
  }

 private:
  static GW_INLINE void flip(float* y, const Draws& draws, float factor) {
    uint32_t random[16];
    for (uint32_t l = 0; l < 16; ++l) random[l] = draws(l);
    for (int r = 0; r < kBlock / 16; ++r)
      for (int l = 0; l < 16; ++l) {
        const uint32_t sign = (random[l] << (31 - r)) & 0x80000000u;
        y[r * 16 + l] = float_of(bits_of(y[r * 16 + l]) ^ sign) * factor;
      }
  }

  static __attribute__((noinline)) void quantize(const CodecShape& s, const float* y, int blocks,
                                                 std::byte* out) {
    Scales scales;
    statistics<kBlock>(y, blocks, scales);
    make_scales<8>(blocks, scales);
    alignas(64) int8_t q[kGroup * kBlock], level[kGroup * kBlock];
    alignas(64) uint8_t codes[kGroup * kBlock];
    for (int g = 0; g < blocks; ++g)
      round_to_codes<8, kBlock>(y + g * kBlock, scales.inverse[g], q + g * kBlock);
    for (int at = 0; at < blocks * kBlock; at += kBlock) {
      nearest_level<4, kBlock>(q + at, codes + at);
      lookup16<kBlock>(LloydMax<4>::kLevels, codes + at, level + at);
    }
    for (int g = 0; g < blocks; ++g, out += kBytes) {
      auto* packed = reinterpret_cast<uint8_t*>(out + 2);
      if (scales.bits[g] == kNanScale) {
        put_u16(out, kNanScale);
        __builtin_memset(packed, 0, kBytes - 2);
        continue;
      }
      const int8_t *fine = q + g * kBlock, *coarse = level + g * kBlock;
      put_u16(out, s.values == kUnbiased ? fitted_scale<kBlock>(fine, fine, coarse, scales.d[g])
                                         : fitted_scale<kBlock>(fine, coarse, coarse, scales.d[g]));
      Slices<4, kBlock>::pack(codes + g * kBlock, packed);
    }
  }

  static GW_INLINE void restore(const std::byte* in, const Draws& draws, float* y) {
    alignas(64) int8_t level[kBlock];
    alignas(64) uint8_t codes[kBlock];
    Slices<4, kBlock>::unpack(reinterpret_cast<const uint8_t*>(in + 2), codes);
    lookup16<kBlock>(LloydMax<4>::kLevels, codes, level);
    const float d = scale_from(in);
    if (d != d) {  // the sign of a sum of NaNs is up to the hardware
      for (int j = 0; j < kBlock; ++j) y[j] = float_of(0x7fc00000u);
      return;
    }
    for (int j = 0; j < kBlock; ++j) y[j] = static_cast<float>(level[j]) * d;
    hadamard(y);
    flip(y, draws, 1.0f);
  }

  template <bool Add>
  static __attribute__((noinline)) void decode_any(const CodecShape& s, const std::byte* in, const Piece& p,
                                                   float* out) {
    const Key key(s.seed, p.step, 0);
    for (size_t i = 0; i < p.count; i += kBlock, in += kBytes) {
      alignas(64) float y[kBlock];
      fetch_ahead<kBlock>(out + i);
      restore(in, key.at(p.first + i), y);
      const size_t m = min_of(size_t{kBlock}, p.count - i);
      if (m == kBlock) {
        for (int j = 0; j < kBlock; ++j) out[i + j] = Add ? out[i + j] + y[j] : y[j];
      } else {
        for (size_t j = 0; j < m; ++j) out[i + j] = Add ? out[i + j] + y[j] : y[j];
      }
    }
  }
};

GW_CODEC(15, Rotated4)

}  // namespace gw::GW_ISA
