// Floats of 8 and 4 bits: E4M3 and E5M2 as in "FP8 Formats for Deep Learning" (arXiv:2209.05433, the OCP
// 8-bit specification; torch.float8_e4m3fn and float8_e5m2), and E2M1 of the OCP Microscaling Formats
// specification v1.0.
//
// Both directions are integer arithmetic and one addition or multiplication that is exact or rounds to
// nearest even, so every machine gives the same bits, and loops over them vectorise.
#pragma once
#include "codec/simd.hpp"

namespace gw::GW_ISA {

// The lower Exponent + Mantissa bits of a code are the magnitude, the one above is the sign.
template <int Exponent_, int Mantissa_>
struct MiniFloat {
  static constexpr int kExponent = Exponent_, kMantissa = Mantissa_;
  static constexpr int kBias = (1 << (Exponent_ - 1)) - 1;
  static constexpr uint32_t kSign = 1u << (Exponent_ + Mantissa_);

  static constexpr int kShift = 23 - Mantissa_;
  static constexpr uint32_t kRebias = static_cast<uint32_t>(127 - kBias) << 23;
  static constexpr uint32_t kSmallestNormal = static_cast<uint32_t>(128 - kBias) << 23;  // bits of fp32

  // Magnitude code nearest to a magnitude of fp32 bits, ties to even; above the largest code if it is too
  // large, and for Inf and NaN.
  static GW_INLINE uint32_t nearest(uint32_t mag) {
    const uint32_t half = (1u << (kShift - 1)) - 1;
    const uint32_t normal = (mag - kRebias + half + ((mag >> kShift) & 1u)) >> kShift;
    // an addend whose last place is the smallest subnormal: the addition itself rounds
    constexpr uint32_t kAddend = static_cast<uint32_t>(127 + 24 - kBias - Mantissa_) << 23;
    const uint32_t subnormal = bits_of(float_of(mag) + float_of(kAddend)) - kAddend;
    return pick(all_ones_if(mag < kSmallestNormal), subnormal, normal);
  }
  // The bits of fp32 of a code without special values; the sign is not looked at.
  static GW_INLINE uint32_t magnitude_of(uint32_t code) {
    constexpr float kUnit = float_of_exponent(1 - kBias - Mantissa_);
    const uint32_t mag = code & (kSign - 1);
    const uint32_t subnormal = bits_of(static_cast<float>(static_cast<int32_t>(mag)) * kUnit);
    return pick(all_ones_if(mag < (1u << Mantissa_)), subnormal, (mag << kShift) + kRebias);
  }
  static GW_INLINE uint32_t sign_of(float f) { return (bits_of(f) >> 31) * kSign; }
  static GW_INLINE uint32_t sign_of(uint32_t code) { return (code & kSign) << (31 - Exponent_ - Mantissa_); }

 private:
  static constexpr float float_of_exponent(int e) {
    return __builtin_bit_cast(float, static_cast<uint32_t>(127 + e) << 23);
  }
};

// Each format: to_code (too large becomes the largest, v is not NaN), and to_float of a code.
struct E4M3 : MiniFloat<4, 3> {  // no Inf; magnitude 0x7f is NaN
  static constexpr int kBits = 8, kLargestExponent = 8;
  static constexpr float kLargest = 448;
  static GW_INLINE uint32_t to_code(float v) {
    return sign_of(v) | min_of(nearest(magnitude(v)), uint32_t{0x7e});
  }
  static GW_INLINE float to_float(uint32_t code) {
    return float_of(sign_of(code) | magnitude_of(code) |
                    (all_ones_if((code & 0x7fu) == 0x7fu) & 0x7fc00000u));
  }
};

struct E5M2 : MiniFloat<5, 2> {  // the upper byte of an fp16
  static constexpr int kBits = 8, kLargestExponent = 15;
  static constexpr float kLargest = 57344;
  static GW_INLINE uint32_t to_code(float v) {
    return sign_of(v) | min_of(nearest(magnitude(v)), uint32_t{0x7b});
  }
  static GW_INLINE float to_float(uint32_t code) {
    const uint32_t mag = code & 0x7fu;
    const uint32_t special =
        (all_ones_if(mag >= 0x7cu) & kInfBits) | (all_ones_if(mag > 0x7cu) & 0x00400000u);
    return float_of(sign_of(code) | magnitude_of(code) | special);
  }
};

struct E2M1 : MiniFloat<2, 1> {  // 0, 0.5, 1, 1.5, 2, 3, 4, 6
  static constexpr int kBits = 4, kLargestExponent = 2;
  static constexpr float kLargest = 6;
  static GW_INLINE uint32_t to_code(float v) {
    return sign_of(v) | min_of(nearest(magnitude(v)), uint32_t{7});
  }
  static GW_INLINE float to_float(uint32_t code) { return float_of(sign_of(code) | magnitude_of(code)); }
};

// The casts of torch 2.12 and later. Too large a finite value is held to 448 (E4M3) or becomes Inf (E5M2,
// from 61440); NaN becomes 0x7f with its sign. One difference: an Inf becomes NaN in E4M3, which has no Inf;
// torch makes it 448.
struct e4m3_t {
  uint8_t bits;
};
struct e5m2_t {
  uint8_t bits;
};
GW_INLINE e4m3_t narrow_to(float f, e4m3_t) {
  const uint32_t nan = all_ones_if(magnitude(f) >= kInfBits) & 0x7fu;
  return {static_cast<uint8_t>(E4M3::to_code(f) | nan)};
}
GW_INLINE e5m2_t narrow_to(float f, e5m2_t) {
  const uint32_t mag = magnitude(f), nan = all_ones_if(mag > kInfBits) & 0x7fu;
  return {static_cast<uint8_t>(E5M2::sign_of(f) | min_of(E5M2::nearest(mag), uint32_t{0x7c}) | nan)};
}
GW_INLINE float widen(e4m3_t h) { return E4M3::to_float(h.bits); }
GW_INLINE float widen(e5m2_t h) { return E5M2::to_float(h.bits); }

}  // namespace gw::GW_ISA
