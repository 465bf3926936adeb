// 16-bit floats, bit-exact on every target: round to nearest even, NaN stays NaN (quiet, payload truncated, the
// same bits as the F16C and AVX512-BF16-free paths give).
#pragma once
#include <bit>
#include <cstdint>

namespace gw {

struct bf16_t {
  uint16_t bits;
};
struct f16_t {
  uint16_t bits;
};

inline float to_f32(bf16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h.bits) << 16); }

inline bf16_t to_bf16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint32_t nan = (u >> 16) | 0x40u;
  return {static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
}

// Branch-free so that compilers vectorise it. Scaling by 2^112 rebuilds exponents, denormals included.
inline float to_f32(f16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t mag = static_cast<uint32_t>(h.bits & 0x7fffu) << 13;
  const float scaled = std::bit_cast<float>(mag) * 0x1p112f;
  const uint32_t special = mag | 0x7f800000u | ((mag & 0x007fffffu) ? 0x00400000u : 0u);
  const uint32_t finite = std::bit_cast<uint32_t>(scaled);
  return std::bit_cast<float>(sign | ((h.bits & 0x7c00u) == 0x7c00u ? special : finite));
}

inline f16_t to_f16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t mag = u & 0x7fffffffu;
  // normal range: re-bias and round to nearest even on the 13 dropped bits; overflow carries into inf
  const uint32_t normal = (mag - 0x38000000u + 0x0fffu + ((mag >> 13) & 1u)) >> 13;
  // below 2^-14: adding 0.5 aligns the mantissa so that the FPU itself rounds to nearest even
  const uint32_t sub = std::bit_cast<uint32_t>(std::bit_cast<float>(mag) + 0.5f) - 0x3f000000u;
  const uint32_t nan = 0x7e00u | ((mag >> 13) & 0x3ffu);
  uint32_t r = mag < 0x38800000u ? sub : normal;
  r = mag >= 0x477ff000u ? 0x7c00u : r;  // rounds to or above 65520
  r = mag > 0x7f800000u ? nan : r;
  return {static_cast<uint16_t>(sign | r)};
}

}  // namespace gw
