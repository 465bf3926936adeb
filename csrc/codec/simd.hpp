// Small things that all per-instruction-set code shares. See isa.hpp for why nothing here comes from std::.
#pragma once
#include <cstddef>
#include <cstdint>

#ifndef GW_ISA
#define GW_ISA generic  // codec parameters only (registry.cpp); no loop is instantiated there
#endif

#define GW_INLINE inline __attribute__((always_inline))
// out may be exactly one of the inputs: safe, as iteration i touches only element i, but GCC cannot know it.
#define GW_IVDEP _Pragma("GCC ivdep")

namespace gw::GW_ISA {

// An element at any address, of memory that was written as bytes.
template <class T>
struct __attribute__((packed, may_alias)) Any {
  T value;
};

GW_INLINE uint32_t bits_of(float f) { return __builtin_bit_cast(uint32_t, f); }
GW_INLINE float float_of(uint32_t u) { return __builtin_bit_cast(float, u); }
GW_INLINE uint32_t magnitude(float f) { return bits_of(f) & 0x7fffffffu; }
inline constexpr uint32_t kInfBits = 0x7f800000u;
GW_INLINE bool finite(float f) { return magnitude(f) < kInfBits; }
// x - decoded, or 0 where that would put a NaN or Inf into a residual.
GW_INLINE float loss_of(float x, float decoded) {
  const float e = x - decoded;
  return finite(e) ? e : 0.0f;
}

template <class T>
GW_INLINE T min_of(T a, T b) {
  return a < b ? a : b;
}
template <class T>
GW_INLINE T max_of(T a, T b) {
  return a > b ? a : b;
}

GW_INLINE void put_u16(std::byte* p, uint16_t v) { reinterpret_cast<Any<uint16_t>*>(p)->value = v; }
GW_INLINE uint16_t get_u16(const std::byte* p) { return reinterpret_cast<const Any<uint16_t>*>(p)->value; }

}  // namespace gw::GW_ISA
