// Signed-max block quantisation, the common part of int8 and int4. A block of values shares one bf16 scale d, chosen
// so that the value m of largest magnitude (ties prefer the negative one) lands on the code -2^(b-1), the one that a
// symmetric quantiser wastes:
//
//   d = m / -2^(b-1), rounded to nearest even in bf16;  q = clamp(nearest(x / d), -2^(b-1), 2^(b-1) - 1);  x' = q d
//
// |m / d| lies within 2^(b-1) (1 -+ 2^-8), so m itself gets the code -2^(b-1). (Rounding d away from zero instead costs
// 1.2 % more error at int8, block 32, as every step is too wide: 0.543 % against 0.537 % on 2^20 values of N(0,1).)
// q d has at most 8 + 8 significant bits: it is exact in fp32, so decode_add and the loss round once, with or without
// fused multiply-add. The block statistic is an integer maximum, which gives the same answer in every order.
//
// Special blocks: a NaN or Inf inside makes d NaN and so the whole decoded block NaN, with loss 0. |d| below the
// smallest normal fp32 becomes 0: the block decodes to zeros and the loss keeps all of x. d is held below the value
// at which 2^(b-1) d would overflow, so blocks of finite values decode to finite values.
//
// Error bound of a finite block: |x - x'| <= max|x| (2^(1-b) + 2^-8), reached by values opposite to m that are held to
// the code 2^(b-1) - 1; all others stay within |d| / 2 or within 2^-8 max|x|. Never more than |x|: a contraction.
// In blocks with d = 0, |x| <= 2^(b-127).
#pragma once
#include <string>

#include "codec/codec_entry.hpp"

namespace gw::GW_ISA {

struct Scale {
  uint16_t bits;  // bf16, as sent
  float d;
  float inverse;  // 0 where d is 0 or NaN
};
inline constexpr uint16_t kNanScale = 0x7fc0;

// Ordered by magnitude, then sign; 0xff000000 and up: not finite.
GW_INLINE uint32_t statistic(float x) {
  const uint32_t u = bits_of(x);
  return (u << 1) | (u >> 31);
}

template <int Bits>
GW_INLINE Scale scale_of(uint32_t stat) {
  if (stat >= 0xff000000u) return {kNanScale, float_of(uint32_t{kNanScale} << 16), 0.0f};
  const float m = float_of((stat >> 1) | (stat << 31));
  const uint32_t exact = bits_of(m * (-1.0f / (1 << (Bits - 1))));
  if ((exact & 0x7fffffffu) < 0x00800000u) return {0, 0.0f, 0.0f};
  constexpr uint32_t kLargest = 0x7f7f0000u - (uint32_t{Bits - 1} << 23);
  const uint32_t nearest = ((exact & 0x7fffffffu) + 0x7fffu + ((exact >> 16) & 1u)) & 0xffff0000u;
  const uint32_t bits = (exact & 0x80000000u) | min_of(nearest, kLargest);
  return {static_cast<uint16_t>(bits >> 16), float_of(bits), 1.0f / float_of(bits)};
}

// The code as a float. Adding 1.5 * 2^23 leaves no room for a fraction, so the addition itself rounds to nearest
// even; |x / d| <= 2^(b-1) (1 + 2^-7) keeps it in range.
template <int Bits>
GW_INLINE float code_of(float x, float inverse) {
  constexpr float kMagic = 12582912.0f;
  constexpr float kTop = 1 << (Bits - 1);
  const float q = (x * inverse + kMagic) - kMagic;
  return max_of(-kTop, min_of(kTop - 1, q));
}

GW_INLINE float scale_from(const std::byte* block) { return float_of(uint32_t{get_u16(block)} << 16); }

// The codes of a block of B elements: int8 in order; int4 with element j in the low and element j + B/2 in the high
// half of byte j, so that neither direction shuffles. A short block sends a prefix of the bytes.
template <int Bits, int B>
struct Block {
  static constexpr int kCodeBytes = B * Bits / 8;
  static constexpr int kBytes = 2 + kCodeBytes;

  static GW_INLINE void encode(const float* x, std::byte* out, float* loss) {
    uint32_t stat = 0;
    for (int j = 0; j < B; ++j) stat = max_of(stat, statistic(x[j]));
    const Scale s = scale_of<Bits>(stat);
    put_u16(out, s.bits);
    auto* codes = reinterpret_cast<uint8_t*>(out + 2);
    if (s.bits == kNanScale) {
      __builtin_memset(codes, 0, kCodeBytes);
      if (loss) __builtin_memset(loss, 0, B * sizeof(float));
      return;
    }
    // through int32: loops of one step each vectorise best
    int32_t q[B];
    for (int j = 0; j < B; ++j) q[j] = static_cast<int32_t>(code_of<Bits>(x[j], s.inverse));
    if constexpr (Bits == 8) {
      for (int j = 0; j < B; ++j) codes[j] = static_cast<uint8_t>(q[j]);
    } else {
      for (int j = 0; j < B / 2; ++j) codes[j] = static_cast<uint8_t>((q[j] & 15) | (q[j + B / 2] << 4));
    }
    if (!loss) return;
    GW_IVDEP
    for (int j = 0; j < B; ++j) loss[j] = x[j] - static_cast<float>(q[j]) * s.d;
  }

  template <bool Add>
  static GW_INLINE void decode(const std::byte* in, float* out) {
    const float d = scale_from(in);
    const auto* codes = reinterpret_cast<const int8_t*>(in + 2);
    const auto put = [&](int j, int32_t q) {
      const float v = static_cast<float>(q) * d;
      out[j] = Add ? out[j] + v : v;
    };
    if constexpr (Bits == 8) {
      GW_IVDEP
      for (int j = 0; j < B; ++j) put(j, codes[j]);
    } else {
      GW_IVDEP
      for (int j = 0; j < B / 2; ++j)
        put(j, static_cast<int32_t>(static_cast<uint32_t>(codes[j]) << 28) >> 28);
      GW_IVDEP
      for (int j = 0; j < B / 2; ++j) put(j + B / 2, codes[j] >> 4);
    }
  }
};

template <int Bits>
struct BlockQuantizer {
  static constexpr bool kLossy = true;
  static constexpr const char* kParameters = "block";

  static CodecShape checked_shape(const CodecParams& p, const char* name, int standard) {
    const int block = p.block == 0 ? standard : p.block;
    if (block != 32 && block != 64 && block != 128)
      fail_argument(std::string("codec ") + name + ": block must be 32, 64 or 128, got " +
                    std::to_string(block));
    return {.block = static_cast<uint32_t>(block)};
  }
  static uint32_t pack(const CodecShape& s) { return s.block; }
  static bool unpack(uint32_t wire, CodecShape& s) {
    s.block = wire;
    return wire == 32 || wire == 64 || wire == 128;
  }
  static std::string arguments(const CodecShape& s) { return "block=" + std::to_string(s.block); }

  // A short last block is encoded as if zeros followed; of its codes only the bytes that hold values are sent.
  static size_t short_codes(size_t block, size_t count) { return min_of(count, block * Bits / 8); }
  static size_t encoded_bytes(const CodecShape& s, size_t count) {
    const size_t rest = count % s.block;
    return count / s.block * (2 + s.block * Bits / 8) + (rest ? 2 + short_codes(s.block, rest) : 0);
  }

  static void encode(const CodecShape& s, const float* x, size_t count, std::byte* out, float* loss) {
    if (s.block == 32) return encode_blocks<32>(x, count, out, loss);
    if (s.block == 64) return encode_blocks<64>(x, count, out, loss);
    encode_blocks<128>(x, count, out, loss);
  }
  static void decode(const CodecShape& s, const std::byte* in, size_t count, float* out) {
    decode_any<false>(s, in, count, out);
  }
  static void decode_add(const CodecShape& s, const std::byte* in, size_t count, float* acc) {
    decode_any<true>(s, in, count, acc);
  }

 private:
  template <bool Add>
  static void decode_any(const CodecShape& s, const std::byte* in, size_t count, float* out) {
    if (s.block == 32) return decode_blocks<32, Add>(in, count, out);
    if (s.block == 64) return decode_blocks<64, Add>(in, count, out);
    decode_blocks<128, Add>(in, count, out);
  }

  template <int B>
  static void encode_blocks(const float* x, size_t count, std::byte* out, float* loss) {
    using Whole = Block<Bits, B>;
    const size_t whole = count / B, rest = count % B;
    if (loss)
      for (size_t i = 0; i < whole; ++i) Whole::encode(x + i * B, out + i * Whole::kBytes, loss + i * B);
    else
      for (size_t i = 0; i < whole; ++i) Whole::encode(x + i * B, out + i * Whole::kBytes, nullptr);
    if (rest == 0) return;
    float padded[B] = {}, padded_loss[B];
    std::byte bytes[Whole::kBytes];
    __builtin_memcpy(padded, x + whole * B, rest * sizeof(float));
    Whole::encode(padded, bytes, padded_loss);
    __builtin_memcpy(out + whole * Whole::kBytes, bytes, 2 + short_codes(B, rest));
    if (loss) __builtin_memcpy(loss + whole * B, padded_loss, rest * sizeof(float));
  }

  template <int B, bool Add>
  static void decode_blocks(const std::byte* in, size_t count, float* out) {
    using Whole = Block<Bits, B>;
    const size_t whole = count / B, rest = count % B;
    for (size_t i = 0; i < whole; ++i) Whole::template decode<Add>(in + i * Whole::kBytes, out + i * B);
    if (rest == 0) return;
    float padded[B] = {};
    std::byte bytes[Whole::kBytes] = {};
    if (Add) __builtin_memcpy(padded, out + whole * B, rest * sizeof(float));
    __builtin_memcpy(bytes, in + whole * Whole::kBytes, 2 + short_codes(B, rest));
    Whole::template decode<Add>(bytes, padded);
    __builtin_memcpy(out + whole * B, padded, rest * sizeof(float));
  }
};

}  // namespace gw::GW_ISA
