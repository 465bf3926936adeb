// Block quantisation, the common part of int8, int6, int5, int4, int3 and int2. The values of a block share one bf16
// scale d (scale.hpp) and become codes of b bits (slices.hpp); a code stands for a level, a whole number of -128 to 127,
// and the decoded value is level * d: exact, so that decode_add and the loss round once.
//
// levels = "signed-max": even steps. The value of largest magnitude is met by the code -2^(b-1);
//   q = clamp(nearest(x / d), -2^(b-1), 2^(b-1) - 1).
//   |x - x'| <= max|x| (2^(1-b) + 2^-8), reached by values opposite to the largest that are held to 2^(b-1) - 1; all
//   others stay within |d| / 2 or within 2^-8 max|x|. Never more than |x|: a contraction, element by element.
// levels = "lloyd-max": x / d is rounded to a fine code of 8 bits, and that to the nearest of the levels in levels.hpp.
//   |x - x'| <= max|x| (1 - t/128 + 2^-7 + 2^-8) with t the highest level, to which values opposite to the largest are
//   held; half the widest gap is less. Never more than |x|, as 0 is a level. int3 and int2 then fit the scale (below): they
//   are contractions of blocks, |x - x'|_2 <= |x|_2 (1 + 2^-7), and |x'|_2 <= |x|_2 (1 + 2^-7).
// rounding = "stochastic" (signed-max levels only): q = floor(x / d + u), u uniform in [0, 1) (random.hpp). The scale is
//   max|x| / (2^(b-1) - 1), rounded up, so that nothing is clamped and x' is an unbiased estimate of x:
//   |E[x'] - x| <= 2^-14 |d| (u has 24 bits, x / d at most 2^7 and so an error of 2^-16; the sum as much again).
//   |x - x'| <= |d| (1 + 2^-14), and 2^-8 |x| more next to the largest fp32, where d is held. Costs about twice the squared error of rounding to nearest.
// In blocks with d = 0, |x| <= 2^-119.
#pragma once
#include <string>

#include "codec/levels.hpp"
#include "codec/lookup.hpp"
#include "codec/random.hpp"
#include "codec/scale.hpp"
#include "codec/slices.hpp"

namespace gw::GW_ISA {

enum QuantFlags : uint32_t { kLloydMax = 1, kStochastic = 2 };

// Even steps.
template <int Bits_, bool Stochastic_>
struct SignedMax {
  static constexpr int kBits = Bits_;
  static constexpr bool kStochastic = Stochastic_, kFitted = false;
  static constexpr int kScaleBits = Bits_;
  static constexpr int kBound = 1 << (Bits_ - 1);

  template <int B>
  static GW_INLINE void code(const int8_t* q, uint8_t* codes) {
    for (int j = 0; j < B; ++j)
      codes[j] = static_cast<uint8_t>(q[j]);  // upper bits are dropped by all who read it
  }
  template <int B>
  static GW_INLINE void levels(const uint8_t* codes, int8_t* out) {
    constexpr int kSign = 1 << (Bits_ - 1);
    for (int j = 0; j < B; ++j) out[j] = static_cast<int8_t>(((codes[j] & (2 * kSign - 1)) ^ kSign) - kSign);
  }
};

// The levels of levels.hpp.
template <int Bits_>
struct Lloyd {
  static constexpr int kBits = Bits_;
  static constexpr bool kStochastic = false, kFitted = Bits_ == 3;
  static constexpr int kScaleBits = 8;

  template <int B>
  static GW_INLINE void code(const int8_t* q, uint8_t* codes) {
    nearest_level<Bits_, B>(q, codes);
  }
  template <int B>
  static GW_INLINE void levels(const uint8_t* codes, int8_t* out) {
    lookup<1 << Bits_, B>(LloydMax<Bits_>::kLevels, codes, out);
  }
};

template <>
struct Lloyd<2> {
  static constexpr int kBits = 2;
  static constexpr bool kStochastic = false, kFitted = true;
  static constexpr int kScaleBits = 8;

  template <int B>
  static GW_INLINE void code(const int8_t* q, uint8_t* codes) {
    int32_t squares = 0;
    for (int j = 0; j < B; ++j) squares += q[j] * q[j];
    const int32_t t = meeting_of_level2(squares, __builtin_ctz(B));
    for (int j = 0; j < B; ++j) codes[j] = code_of_level2(q[j], t);
  }
  template <int B>
  static GW_INLINE void levels(const uint8_t* codes, int8_t* out) {
    lookup16<B>(LloydMax<2>::kLevels, codes, out);
  }
};

template <int Bits, int B>
GW_INLINE void round_to_codes(const float* x, float inverse, int8_t* q) {
  for (int j = 0; j < B; ++j) q[j] = static_cast<int8_t>(code_of<Bits>(x[j], inverse));
}

// bf16 bits of the scale <a, b> / <b, c> d: with a = q, b = c = level the one that fits best. The sums are whole numbers,
// so that their order does not matter.
template <int B>
GW_INLINE uint16_t fitted_scale(const int8_t* a, const int8_t* b, const int8_t* c, float d) {
  // through 16 bits: every CPU multiplies and adds pairs of those at once
  int16_t wide_a[B], wide_b[B], wide_c[B];
  for (int j = 0; j < B; ++j) wide_a[j] = a[j];
  for (int j = 0; j < B; ++j) wide_b[j] = b[j];
  for (int j = 0; j < B; ++j) wide_c[j] = c[j];
  int32_t over = 0, under = 0;
  for (int j = 0; j < B; ++j) over += wide_a[j] * wide_b[j];
  for (int j = 0; j < B; ++j) under += wide_b[j] * wide_c[j];
  return fitted_bits(over, under, d);
}

template <class Grid, int B>
struct QuantBlocks {
  using Packed = Slices<Grid::kBits, B>;
  static constexpr int kBytes = 2 + Packed::kBytes;

  // Up to kGroup blocks; `first` is the place of x[0]. Step by step over the whole group: what one step writes in small
  // pieces the next reads in large ones, which would wait if it came at once.
  // Not inlined: the compiler's time, not the machine's, and once a group is nothing.
  static __attribute__((noinline)) void encode(const float* x, int blocks, const Key& key, uint64_t first,
                                               std::byte* out, float* loss) {
    Scales s;
    alignas(64) int8_t q[kGroup * B], level[kGroup * B];
    alignas(64) uint8_t codes[kGroup * B];
    statistics<B>(x, blocks, s);
    make_scales<Grid::kScaleBits, Grid::kStochastic>(blocks, s);
    for (int g = 0; g < blocks; ++g) {
      if constexpr (Grid::kStochastic)
        round_at_random<Grid::kBits>(x + g * B, s.inverse[g], key.at(first + static_cast<uint64_t>(g) * B),
                                     q + g * B);
      else
        round_to_codes<Grid::kScaleBits, B>(x + g * B, s.inverse[g], q + g * B);
    }
    for (int g = 0; g < blocks; ++g) Grid::template code<B>(q + g * B, codes + g * B);
    if (loss || Grid::kFitted)
      for (int g = 0; g < blocks; ++g) Grid::template levels<B>(codes + g * B, level + g * B);
    for (int g = 0; g < blocks; ++g, out += kBytes) {
      auto* packed = reinterpret_cast<uint8_t*>(out + 2);
      uint16_t bits = s.bits[g];
      if (bits == kNanScale) {
        put_u16(out, bits);
        __builtin_memset(packed, 0, Packed::kBytes);
        if (loss) __builtin_memset(loss + g * B, 0, B * sizeof(float));
        continue;
      }
      if constexpr (Grid::kFitted) bits = fitted_scale<B>(q + g * B, level + g * B, level + g * B, s.d[g]);
      put_u16(out, bits);
      Packed::pack(codes + g * B, packed);
      if (!loss) continue;
      const float d = float_of(uint32_t{bits} << 16);
      GW_IVDEP
      for (int j = g * B; j < (g + 1) * B; ++j) loss[j] = x[j] - static_cast<float>(level[j]) * d;
    }
  }

  template <bool Add>
  static __attribute__((noinline)) void decode(const std::byte* in, size_t blocks, float* out) {
    constexpr size_t kTogether = 512 / B;
    alignas(64) int8_t level[512];
    alignas(64) uint8_t codes[512];
    for (size_t n = 0; blocks > 0; blocks -= n) {
      n = min_of(blocks, kTogether);
      for (size_t g = 0; g < n; ++g) {
        fetch_ahead<B>(out + g * B);
        Packed::unpack(reinterpret_cast<const uint8_t*>(in + g * kBytes + 2), codes + g * B);
      }
      for (size_t g = 0; g < n; ++g) Grid::template levels<B>(codes + g * B, level + g * B);
      for (size_t g = 0; g < n; ++g, in += kBytes, out += B) {
        const float d = scale_from(in);
        GW_IVDEP
        for (int j = 0; j < B; ++j) {
          const float v = static_cast<float>(level[g * B + static_cast<size_t>(j)]) * d;
          out[j] = Add ? out[j] + v : v;
        }
      }
    }
  }

  // Any number of elements: whole blocks, then a short one as if zeros followed.
  static void encode_all(const float* x, const Piece& p, const Key& key, std::byte* out, float* loss) {
    const size_t whole = p.count / B, rest = p.count % B;
    for (size_t i = 0; i < whole; i += kGroup)
      encode(x + i * B, static_cast<int>(min_of(whole - i, size_t{kGroup})), key, p.first + i * B,
             out + i * kBytes, loss ? loss + i * B : nullptr);
    if (rest == 0) return;
    alignas(64) float padded[B] = {}, padded_loss[B];
    std::byte bytes[kBytes];
    __builtin_memcpy(padded, x + whole * B, rest * sizeof(float));
    encode(padded, 1, key, p.first + whole * B, bytes, padded_loss);
    out += whole * kBytes;
    __builtin_memcpy(out, bytes, 2);
    Packed::shorten(reinterpret_cast<const uint8_t*>(bytes + 2), rest, reinterpret_cast<uint8_t*>(out + 2));
    if (loss) __builtin_memcpy(loss + whole * B, padded_loss, rest * sizeof(float));
  }

  template <bool Add>
  static void decode_all(const std::byte* in, size_t count, float* out) {
    const size_t whole = count / B, rest = count % B;
    decode<Add>(in, whole, out);
    if (rest == 0) return;
    alignas(64) float padded[B] = {};
    std::byte bytes[kBytes] = {};
    if (Add) __builtin_memcpy(padded, out + whole * B, rest * sizeof(float));
    in += whole * kBytes;
    __builtin_memcpy(bytes, in, 2);
    Packed::widen_short(reinterpret_cast<const uint8_t*>(in + 2), rest,
                        reinterpret_cast<uint8_t*>(bytes + 2));
    decode<Add>(bytes, 1, padded);
    __builtin_memcpy(out + whole * B, padded, rest * sizeof(float));
  }

 private:
  template <int Bits>
  static GW_INLINE void round_at_random(const float* x, float inverse, const Draws& draws, int8_t* q) {
    for (int j = 0; j < B; ++j)
      q[j] = static_cast<int8_t>(random_code_of<Bits>(x[j], inverse, draws(static_cast<uint32_t>(j))));
  }
};

template <int Bits>
struct BlockQuantizer {
  static constexpr bool kLossy = true;
  static constexpr const char* kParameters = "block, levels, rounding, seed";

  static CodecShape checked_shape(const CodecParams& p, const char* name, int standard) {
    const auto fail = [name](const std::string& what) {
      fail_argument(std::string("codec ") + name + ": " + what);
    };
    CodecShape s{.block = static_cast<uint32_t>(p.block == 0 ? standard : p.block)};
    if (!valid_block(s.block)) fail("block must be 32, 64 or 128, got " + std::to_string(p.block));
    if (p.levels == "lloyd-max")
      s.values |= kLloydMax;
    else if (!p.levels.empty() && p.levels != "signed-max")
      fail("levels must be signed-max or lloyd-max, got \"" + p.levels + "\"");
    if (p.rounding == "stochastic")
      s.values |= kStochastic;
    else if (!p.rounding.empty() && p.rounding != "nearest")
      fail("rounding must be nearest or stochastic, got \"" + p.rounding + "\"");
    if (s.values == (kLloydMax | kStochastic))
      fail("stochastic rounding needs levels=signed-max, whose steps are even");
    if (Bits == 8 && s.values == kLloydMax) fail("lloyd-max levels are for 6 bits and fewer");
    if (p.seed != 0 && s.values != kStochastic) fail("a seed is for rounding=stochastic");
    s.seed = static_cast<uint32_t>(p.seed);
    return s;
  }
  static uint32_t pack(const CodecShape& s) { return s.block | s.values << 8 | s.seed << 16; }
  static bool unpack(uint32_t wire, CodecShape& s) {
    s = {.block = wire & 0xffu, .values = wire >> 8 & 0xffu, .seed = wire >> 16};
    return valid_block(s.block) && s.values <= kStochastic && (s.seed == 0 || s.values == kStochastic) &&
           (Bits < 8 || s.values != kLloydMax);
  }
  static std::string arguments(const CodecShape& s) {
    std::string text = "block=" + std::to_string(s.block);
    if (s.values == kLloydMax) text += ", levels=lloyd-max";
    if (s.values == kStochastic) text += ", rounding=stochastic, seed=" + std::to_string(s.seed);
    return text;
  }

  static size_t encoded_bytes(const CodecShape& s, size_t count) {
    const size_t rest = count % s.block;
    return count / s.block * (2 + s.block * Bits / 8) + (rest ? 2 + sliced_bytes(Bits, s.block, rest) : 0);
  }

  static void encode(const CodecShape& s, const float* x, const Piece& p, std::byte* out, float* loss) {
    const Key key(s.seed, p.step, p.stream);
    const auto run = [&](auto blocks) { blocks.encode_all(x, p, key, out, loss); };
    if (s.values == kStochastic) return with_size<SignedMax<Bits, true>>(s, run);
    with_levels(s, run);
  }
  static void decode(const CodecShape& s, const std::byte* in, const Piece& p, float* out) {
    with_levels(s, [&](auto blocks) { blocks.template decode_all<false>(in, p.count, out); });
  }
  static void decode_add(const CodecShape& s, const std::byte* in, const Piece& p, float* acc) {
    with_levels(s, [&](auto blocks) { blocks.template decode_all<true>(in, p.count, acc); });
  }

 private:
  static bool valid_block(uint32_t block) { return block == 32 || block == 64 || block == 128; }

  // Calls f with the QuantBlocks of a shape. How values were rounded is nothing that a decoder has to know.
  template <class F>
  static void with_levels(const CodecShape& s, F f) {
    if constexpr (Bits < 8)
      if (s.values == kLloydMax) return with_size<Lloyd<Bits>>(s, f);
    with_size<SignedMax<Bits, false>>(s, f);
  }
  template <class Grid, class F>
  static void with_size(const CodecShape& s, F f) {
    if (s.block == 32) return f(QuantBlocks<Grid, 32>{});
    if (s.block == 64) return f(QuantBlocks<Grid, 64>{});
    f(QuantBlocks<Grid, 128>{});
  }
};

}  // namespace gw::GW_ISA
