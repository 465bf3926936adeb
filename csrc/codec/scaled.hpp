// Blocks of small floats under one scale, the common part of the block-scaled fp8 codecs and of the MX
// formats:
//
//   [scale][codes of B values]    code = nearest code to x / d, ties to even, too large becomes the largest;  x' = code d
//
// A block that holds NaN or Inf has a NaN scale and zero codes: it decodes to NaN, with loss 0. A short last
// block is encoded as if zeros followed; of its codes only the bytes that hold values are sent. Codes of 4
// bits: element 2i in the lower and 2i + 1 in the upper half of byte i.
//
// A Rule is the scale: kBytes, of(largest magnitude as bits) -> BlockScale, put, get. The product code * d is
// exact (a code has at most 4 significant bits, d at most 8), so decode_add and the loss round once.
#pragma once
#include <string>

#include "codec/codec_entry.hpp"
#include "codec/minifloat.hpp"

namespace gw::GW_ISA {

struct BlockScale {
  uint32_t bits;  // as sent
  float d;
  float inverse;  // 0: all codes are zero
};

// Codes of one byte each, n of them (even), to their place in memory and back.
template <int Bits, int N>
GW_INLINE void put_codes(const uint8_t* codes, std::byte* out) {
  if constexpr (Bits == 8) {
    __builtin_memcpy(out, codes, N);
  } else {
    uint16_t pairs[N / 2];
    uint8_t packed[N / 2];
    __builtin_memcpy(pairs, codes, N);
    for (int j = 0; j < N / 2; ++j) packed[j] = static_cast<uint8_t>(pairs[j] | (pairs[j] >> 4));
    __builtin_memcpy(out, packed, N / 2);
  }
}
template <int Bits, int N>
GW_INLINE void get_codes(const std::byte* in, uint8_t* codes) {
  if constexpr (Bits == 8) {
    __builtin_memcpy(codes, in, N);
  } else {
    uint16_t pairs[N / 2];
    const auto* packed = reinterpret_cast<const uint8_t*>(in);
    for (int j = 0; j < N / 2; ++j)
      pairs[j] = static_cast<uint16_t>((packed[j] | (uint32_t{packed[j]} << 4)) & 0x0f0fu);
    __builtin_memcpy(codes, pairs, N);
  }
}

template <class Element, class Rule, int B>
struct ScaledBlock {
  static constexpr int kBytes = Rule::kBytes + B * Element::kBits / 8;

  static GW_INLINE void encode(const float* x, std::byte* out, float* loss) {
    uint32_t largest = 0;
    for (int j = 0; j < B; ++j) largest = max_of(largest, magnitude(x[j]));
    if (largest >= kInfBits) {
      Rule::put(out, Rule::kNan);
      __builtin_memset(out + Rule::kBytes, 0, kBytes - Rule::kBytes);
      if (loss) __builtin_memset(loss, 0, B * sizeof(float));
      return;
    }
    const BlockScale s = Rule::of(largest);
    Rule::put(out, s.bits);
    // through 32 bits: loops of one step each vectorise best
    uint32_t q[B];
    uint8_t codes[B];
    for (int j = 0; j < B; ++j) q[j] = Element::to_code(x[j] * s.inverse);
    for (int j = 0; j < B; ++j) codes[j] = static_cast<uint8_t>(q[j]);
    put_codes<Element::kBits, B>(codes, out + Rule::kBytes);
    if (!loss) return;
    GW_IVDEP
    for (int j = 0; j < B; ++j) loss[j] = x[j] - Element::to_float(q[j]) * s.d;
  }

  template <bool Add>
  static GW_INLINE void decode(const std::byte* in, float* out) {
    const float d = Rule::get(in);
    uint8_t codes[B];
    get_codes<Element::kBits, B>(in + Rule::kBytes, codes);
    GW_IVDEP
    for (int j = 0; j < B; ++j) {
      const float v = Element::to_float(codes[j]) * d;
      out[j] = Add ? out[j] + v : v;
    }
  }
};

// All blocks of a payload.
template <class Element, class Rule, int B>
struct ScaledBlocks {
  using Whole = ScaledBlock<Element, Rule, B>;

  static size_t short_bytes(size_t rest) { return Rule::kBytes + (rest * Element::kBits + 7) / 8; }
  static size_t encoded_bytes(size_t count) {
    const size_t rest = count % B;
    return count / B * Whole::kBytes + (rest ? short_bytes(rest) : 0);
  }

  static void encode(const float* x, size_t count, std::byte* out, float* loss) {
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
    __builtin_memcpy(out + whole * Whole::kBytes, bytes, short_bytes(rest));
    if (loss) __builtin_memcpy(loss + whole * B, padded_loss, rest * sizeof(float));
  }

  template <bool Add>
  static void decode(const std::byte* in, size_t count, float* out) {
    const size_t whole = count / B, rest = count % B;
    for (size_t i = 0; i < whole; ++i) Whole::template decode<Add>(in + i * Whole::kBytes, out + i * B);
    if (rest == 0) return;
    float padded[B] = {};
    std::byte bytes[Whole::kBytes] = {};
    if (Add) __builtin_memcpy(padded, out + whole * B, rest * sizeof(float));
    __builtin_memcpy(bytes, in + whole * Whole::kBytes, short_bytes(rest));
    Whole::template decode<Add>(bytes, padded);
    __builtin_memcpy(out + whole * B, padded, rest * sizeof(float));
  }
};

}  // namespace gw::GW_ISA
