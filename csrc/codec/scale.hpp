// The scale that a block of values shares: a bf16 d, chosen so that the value m of largest magnitude (ties prefer the
// negative one) lands on the code -2^(b-1), the one that a symmetric quantiser wastes:
//
//   d = m / -2^(b-1), rounded to nearest even in bf16
//
// |m / d| lies within 2^(b-1) (1 -+ 2^-8), so m itself gets the code -2^(b-1). (Rounding d away from zero instead costs
// 1.2 % more error at int8, block 32, as every step is too wide: 0.543 % against 0.537 % on 2^20 values of N(0,1).)
// A code of up to 8 bits times d has at most 8 + 8 significant bits: it is exact in fp32, so decode_add and the loss
// round once, with or without fused multiply-add. The block statistic is an integer maximum, which gives the same answer
// in every order.
//
// Special blocks: a NaN or Inf inside makes d NaN and so the whole decoded block NaN, with loss 0. |d| below the
// smallest normal fp32 becomes 0: the block decodes to zeros and the loss keeps all of x. d is held below the value
// at which 2^(b-1) d would overflow, so blocks of finite values decode to finite values.
#pragma once
#include "codec/simd.hpp"

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

// bf16 bits of a scale, from fp32 bits that are not NaN: nearest even, 0 if subnormal, at most what keeps 2^top d
// finite. No branches: it runs over many blocks at a time.
template <int Top>
GW_INLINE uint32_t rounded_scale(uint32_t exact) {
  constexpr uint32_t kLargest = 0x7f7f0000u - (uint32_t{Top} << 23);
  const uint32_t size = exact & 0x7fffffffu;
  const uint32_t nearest = (size + 0x7fffu + ((exact >> 16) & 1u)) & 0xffff0000u;
  const uint32_t bits = (exact & 0x80000000u) | min_of(nearest, kLargest);
  return bits & all_ones_if(size >= 0x00800000u);
}

template <int Bits>
GW_INLINE Scale scale_of(uint32_t stat) {
  const uint32_t lost = all_ones_if(stat >= 0xff000000u);
  const float m = float_of(((stat >> 1) | (stat << 31)) & ~lost);
  const uint32_t bits = rounded_scale<Bits - 1>(bits_of(m * (-1.0f / (1 << (Bits - 1)))));
  // 1 / 1 where there is no inverse: a division by 0 would be slow on some CPUs, and its Inf is not wanted
  const uint32_t none = all_ones_if(bits == 0);
  const float inverse = 1.0f / float_of(pick(none, 0x3f800000u, bits));
  const uint32_t sent = pick(lost, uint32_t{kNanScale} << 16, bits);
  return {static_cast<uint16_t>(sent >> 16), float_of(sent), float_of(bits_of(inverse) & ~none)};
}

// For stochastic rounding: max|x| / (2^(b-1) - 1), rounded up to bf16, so that no code lies outside.
template <int Bits>
GW_INLINE Scale even_scale_of(uint32_t stat) {
  const uint32_t lost = all_ones_if(stat >= 0xff000000u);
  const float largest = float_of((stat >> 1) & ~lost);
  constexpr int kTop = (1 << (Bits - 1)) - 1;
  const uint32_t exact = bits_of(largest / kTop);
  const uint32_t up = min_of((exact + 0xffffu) & 0xffff0000u, 0x7f7f0000u - (uint32_t{Bits - 1} << 23));
  const uint32_t bits = up & all_ones_if(exact >= 0x00800000u);
  const float inverse = 1.0f / float_of(pick(all_ones_if(bits == 0), 0x3f800000u, bits));
  return {static_cast<uint16_t>(pick(lost, kNanScale, bits >> 16)), float_of(bits),
          float_of(bits_of(inverse) & all_ones_if(bits != 0))};
}

// bf16 bits of the scale over / under * d, from whole numbers; 0 where it would be negative or the block is all zeros.
GW_INLINE uint16_t fitted_bits(int32_t over, int32_t under, float d) {
  if (over <= 0 || under <= 0) return 0;
  const float fit = static_cast<float>(over) / static_cast<float>(under);
  return static_cast<uint16_t>(rounded_scale<7>(bits_of(fit * d)) >> 16);
}

GW_INLINE float scale_from(const std::byte* block) { return float_of(uint32_t{get_u16(block)} << 16); }

// nearest-even(f), |f| < 2^22, as an integer: adding 1.5 * 2^23 leaves no room for a fraction, so the addition itself
// rounds.
GW_INLINE int32_t nearest_int(float f) {
  constexpr float kMagic = 12582912.0f;
  return static_cast<int32_t>(bits_of(f + kMagic)) - 0x4b400000;
}
template <int Bits>
GW_INLINE int32_t code_of(float x, float inverse) {
  constexpr int32_t kTop = 1 << (Bits - 1);
  return max_of(-kTop, min_of(kTop - 1, nearest_int(x * inverse)));
}

// floor(x * inverse + u) for u in [0, 1) of 24 bits of `random`; floor(v + u) = nearest(v + (u - 1/2)).
template <int Bits>
GW_INLINE int32_t random_code_of(float x, float inverse, uint32_t random) {
  constexpr int32_t kTop = (1 << (Bits - 1)) - 1;
  const float shift = static_cast<float>(static_cast<int32_t>(random) >> 8) * 0x1p-24f;
  return max_of(-kTop, min_of(kTop, nearest_int(x * inverse + shift)));
}

// Many blocks at a time: three loops that each vectorise, instead of one chain of dependent steps a block.
inline constexpr int kGroup = 32;  // blocks
struct Scales {
  uint32_t stat[kGroup];
  uint16_t bits[kGroup];
  float d[kGroup], inverse[kGroup];
};
template <int B>
GW_INLINE void statistics(const float* x, int blocks, Scales& s) {
  for (int g = 0; g < blocks; ++g, x += B) {
    uint32_t stat = 0;
    for (int j = 0; j < B; ++j) stat = max_of(stat, statistic(x[j]));
    s.stat[g] = stat;
  }
}
template <int Bits, bool Even = false>
GW_INLINE void make_scales(int blocks, Scales& s) {
  for (int g = 0; g < blocks; ++g) {
    const Scale one = Even ? even_scale_of<Bits>(s.stat[g]) : scale_of<Bits>(s.stat[g]);
    s.bits[g] = one.bits;
    s.d[g] = one.d;
    s.inverse[g] = one.inverse;
  }
}

}  // namespace gw::GW_ISA
