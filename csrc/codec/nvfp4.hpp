// nvfp4: NVIDIA's NVFP4 for interchange: 16 values of E2M1 share a scale s in E4M3, and a tensor shares a
// scale g in fp32. The tensor is here a super-block of 4096 values, so that a frame's bytes do not depend on
// where a message was cut: 4.51 bits an element. Within a super-block codes and scales are those of torchao's
// nvfp4_quantize with per_tensor_scale = max|x| / (448 * 6), all operations in fp32:
//
//   [g: 4 bytes][s: one byte for each 16 values][codes: element 2i in the lower, 2i + 1 in the upper half of byte i]
//   g = max|x| / 2688;  s = E4M3(clamp((block's max|x| / 6) / g, 2^-6, 448));  i = (1 / g) / s
//   code = nearest E2M1 to x i, ties to even, too large becomes the largest;  x' = code (s g)
//
// A last super-block of L values has ceil(L / 16) scales and ceil(L / 2) code bytes, encoded as if zeros
// followed. g is computed from finite values; a block of 16 that holds NaN or Inf has s = NaN and zero codes:
// it decodes to NaN, with loss 0, its neighbours are unharmed. g below 2^-120 becomes 0: the super-block
// decodes to zeros and the loss keeps x. g is held 8 units in the last place below max float / 2688, so that
// finite blocks decode to finite values.
//
// Error bound: 2^-2 |x| + 2^-4 max|x| of the block of 16 + 2^-18 max|x| of the super-block + 2^-108. First
// term: half a step of one mantissa bit, or a value held because s was rounded down; second: half the
// smallest code, 0.25 s g, with s g <= max|x| / 6 (1 + 2^-4); third: the same where s is held at 2^-6; last:
// g = 0. Never more than |x|, up to roundings of fp32.
#pragma once
#include <string>

#include "codec/scaled.hpp"

namespace gw::GW_ISA {

struct NvFp4 {
  static constexpr const char* kName = "nvfp4";
  static constexpr bool kLossy = true;
  static constexpr const char* kParameters = "";
  static constexpr uint32_t kSuper = 4096, kBlock = 16;

  static CodecShape shape(const CodecParams&) { return {.block = kSuper}; }
  static uint32_t pack(const CodecShape&) { return 0; }
  static bool unpack(uint32_t, CodecShape& s) {
    s.block = kSuper;
    return true;
  }
  static std::string arguments(const CodecShape&) { return ""; }

  static constexpr size_t blocks_in(size_t length) { return (length + kBlock - 1) / kBlock; }
  static constexpr size_t super_bytes(size_t length) { return 4 + blocks_in(length) + (length + 1) / 2; }
  static size_t encoded_bytes(const CodecShape&, size_t count) {
    const size_t rest = count % kSuper;
    return count / kSuper * super_bytes(kSuper) + (rest ? super_bytes(rest) : 0);
  }

  static void encode(const CodecShape&, const float* x, size_t count, std::byte* out, float* loss) {
    for (size_t at = 0; at < count; at += kSuper) {
      const size_t length = min_of(size_t{kSuper}, count - at);
      encode_super(x + at, length, out, loss ? loss + at : nullptr);
      out += super_bytes(length);
    }
  }
  static void decode(const CodecShape&, const std::byte* in, size_t count, float* out) {
    decode_all<false>(in, count, out);
  }
  static void decode_add(const CodecShape&, const std::byte* in, size_t count, float* acc) {
    decode_all<true>(in, count, acc);
  }

  static constexpr uint32_t kNanScale = 0x7f;
  static GW_INLINE float super_scale(uint32_t largest) {
    constexpr float kCodes = E4M3::kLargest * E2M1::kLargest;
    const float top = float_of(bits_of(__builtin_bit_cast(float, 0x7f7fffffu) / kCodes) - 8);
    const float g = min_of(float_of(largest) / kCodes, top);
    return g < 0x1p-120f ? 0.0f : g;
  }
  static GW_INLINE uint32_t scale_code(uint32_t largest, float g) {
    const float s = float_of(largest) / E2M1::kLargest / g;
    return E4M3::to_code(max_of(0x1p-6f, min_of(E4M3::kLargest, s)));
  }

 private:
  // The largest magnitude of each block of 16, as bits.
  static GW_INLINE uint32_t largest_of(const float* x) {
    uint32_t largest = 0;
    for (uint32_t j = 0; j < kBlock; ++j) largest = max_of(largest, magnitude(x[j]));
    return largest;
  }

  static GW_INLINE void encode_block(const float* x, float inverse, float d, std::byte* codes, float* loss) {
    uint32_t q[kBlock];
    uint8_t bytes[kBlock];
    for (uint32_t j = 0; j < kBlock; ++j) q[j] = E2M1::to_code(x[j] * inverse);
    for (uint32_t j = 0; j < kBlock; ++j) bytes[j] = static_cast<uint8_t>(q[j]);
    put_codes<4, kBlock>(bytes, codes);
    if (!loss) return;
    GW_IVDEP
    for (uint32_t j = 0; j < kBlock; ++j) loss[j] = x[j] - E2M1::to_float(q[j]) * d;
  }

  static void encode_super(const float* x, size_t length, std::byte* out, float* loss) {
    const size_t whole = length / kBlock, rest = length % kBlock, blocks = blocks_in(length);
    float padded[kBlock] = {}, padded_loss[kBlock];
    if (rest) __builtin_memcpy(padded, x + whole * kBlock, rest * sizeof(float));
    uint32_t maxima[kSuper / kBlock];
    for (size_t b = 0; b < blocks; ++b) maxima[b] = largest_of(b < whole ? x + b * kBlock : padded);
    uint32_t largest = 0;
    for (size_t b = 0; b < blocks; ++b) largest = max_of(largest, maxima[b] < kInfBits ? maxima[b] : 0);

    const float g = super_scale(largest), inverse_g = g == 0 ? 0.0f : 1.0f / g;
    __builtin_memcpy(out, &g, 4);
    std::byte* codes = out + 4 + blocks;
    for (size_t b = 0; b < blocks; ++b) {
      const bool lost = maxima[b] >= kInfBits, last = b == whole;
      const uint32_t s = lost ? kNanScale : g == 0 ? 0 : scale_code(maxima[b], g);
      out[4 + b] = static_cast<std::byte>(s);
      std::byte bytes[kBlock / 2];
      float* to = !loss ? nullptr : last ? padded_loss : loss + b * kBlock;
      if (lost) {
        __builtin_memset(bytes, 0, sizeof bytes);
        if (to) __builtin_memset(to, 0, kBlock * sizeof(float));
      } else {
        const float wide = E4M3::to_float(s);
        encode_block(last ? padded : x + b * kBlock, g == 0 ? 0.0f : inverse_g / wide, wide * g, bytes, to);
      }
      __builtin_memcpy(codes + b * (kBlock / 2), bytes, last ? (rest + 1) / 2 : sizeof bytes);
    }
    if (loss && rest) __builtin_memcpy(loss + whole * kBlock, padded_loss, rest * sizeof(float));
  }

  template <bool Add>
  static GW_INLINE void decode_block(const std::byte* codes, float d, float* out) {
    uint8_t q[kBlock];
    get_codes<4, kBlock>(codes, q);
    GW_IVDEP
    for (uint32_t j = 0; j < kBlock; ++j) {
      const float v = E2M1::to_float(q[j]) * d;
      out[j] = Add ? out[j] + v : v;
    }
  }

  template <bool Add>
  static void decode_all(const std::byte* in, size_t count, float* out) {
    for (size_t at = 0; at < count; at += kSuper, out += kSuper) {
      const size_t length = min_of(size_t{kSuper}, count - at);
      const size_t whole = length / kBlock, rest = length % kBlock, blocks = blocks_in(length);
      float g;
      __builtin_memcpy(&g, in, 4);
      const std::byte* codes = in + 4 + blocks;
      const auto scale = [&](size_t b) { return E4M3::to_float(static_cast<uint32_t>(in[4 + b])) * g; };
      for (size_t b = 0; b < whole; ++b)
        decode_block<Add>(codes + b * (kBlock / 2), scale(b), out + b * kBlock);
      if (rest) {
        std::byte bytes[kBlock / 2] = {};
        float padded[kBlock] = {};
        __builtin_memcpy(bytes, codes + whole * (kBlock / 2), (rest + 1) / 2);
        if (Add) __builtin_memcpy(padded, out + whole * kBlock, rest * sizeof(float));
        decode_block<Add>(bytes, scale(whole), padded);
        __builtin_memcpy(out + whole * kBlock, padded, rest * sizeof(float));
      }
      in += super_bytes(length);
    }
  }
};

GW_CODEC(21, NvFp4)

}  // namespace gw::GW_ISA
