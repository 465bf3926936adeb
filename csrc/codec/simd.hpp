// Small things that all per-instruction-set code shares. See isa.hpp for why nothing here comes from std::.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/half.hpp"

#ifndef GW_ISA
#define GW_ISA generic  // codec parameters only (registry.cpp); no loop is instantiated there
#endif

// What is so marked is shared with the kernels of csrc/cuda.
#ifdef __CUDACC__
#define GW_INLINE __host__ __device__ __forceinline__
#define GW_IVDEP
#else
#define GW_INLINE inline __attribute__((always_inline))
// out may be exactly one of the inputs: safe, as iteration i touches only element i, but GCC cannot know it.
#define GW_IVDEP _Pragma("GCC ivdep")
#endif

namespace gw::GW_ISA {

// GCC takes wider vectors apart, and compares them one element after the other.
#if defined(__AVX512BW__)
inline constexpr size_t kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr size_t kVectorBytes = 32;
#else
inline constexpr size_t kVectorBytes = 16;
#endif

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
GW_INLINE uint32_t all_ones_if(bool b) { return 0u - static_cast<uint32_t>(b); }
GW_INLINE uint32_t pick(uint32_t mask, uint32_t yes, uint32_t no) { return (mask & yes) | (~mask & no); }
// f, or 0 if it is NaN or Inf: such values never enter a residual. Masks instead of ?: so that loops vectorise.
GW_INLINE float finite_or_zero(float f) { return float_of(bits_of(f) & all_ones_if(finite(f))); }

template <class T>
GW_INLINE T min_of(T a, T b) {
  return a < b ? a : b;
}
template <class T>
GW_INLINE T max_of(T a, T b) {
  return a > b ? a : b;
}

// Asks for the memory that a decoder will write soon: a line that is written comes into the cache first, and waiting for
// that is half of the time of decoding a large array. N floats, kAhead bytes from `out`; may lie outside of the array.
template <int N>
GW_INLINE void fetch_ahead(const float* out) {
  constexpr uintptr_t kAhead = 2048;
  for (int j = 0; j < N; j += 16)
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(out + j) + kAhead), 1);
}

GW_INLINE void put_u16(std::byte* p, uint16_t v) { reinterpret_cast<Any<uint16_t>*>(p)->value = v; }
GW_INLINE uint16_t get_u16(const std::byte* p) { return reinterpret_cast<const Any<uint16_t>*>(p)->value; }

// The conversions of base/half.hpp, bit for bit, without the branches that keep loops from being vectorised and
// without fp32 subnormals, which are slow on some CPUs and zero on threads that flush them.
GW_INLINE float widen(bf16_t h) { return float_of(static_cast<uint32_t>(h.bits) << 16); }
GW_INLINE bf16_t narrow_to(float f, bf16_t) {
  const uint32_t u = bits_of(f), rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
  return {static_cast<uint16_t>(pick(all_ones_if((u & 0x7fffffffu) > kInfBits), nan, rounded))};
}
GW_INLINE float widen(f16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16, mag = h.bits & 0x7fffu;
  const uint32_t subnormal = bits_of(static_cast<float>(static_cast<int32_t>(mag)) * 0x1p-24f);
  const uint32_t normal = (mag << 13) + 0x38000000u;
  const uint32_t special =
      (all_ones_if(mag >= 0x7c00u) & kInfBits) | (all_ones_if(mag > 0x7c00u) & 0x00400000u);
  return float_of(sign | pick(all_ones_if(mag < 0x0400u), subnormal, normal) | special);
}
GW_INLINE f16_t narrow_to(float f, f16_t) {
  const uint32_t u = bits_of(f), mag = u & 0x7fffffffu;
  const uint32_t normal = (mag - 0x38000000u + 0x0fffu + ((mag >> 13) & 1u)) >> 13;
  // adding 0.5 aligns the mantissa of a value below 2^-14, so the addition itself rounds to nearest even
  const uint32_t subnormal = bits_of(float_of(mag) + 0.5f) - 0x3f000000u;
  uint32_t r = pick(all_ones_if(mag < 0x38800000u), subnormal, normal);
  r = pick(all_ones_if(mag >= 0x477ff000u), 0x7c00u, r);  // rounds to or above 65520: Inf
  r = pick(all_ones_if(mag > kInfBits), 0x7e00u | ((mag >> 13) & 0x3ffu), r);
  return {static_cast<uint16_t>(((u >> 16) & 0x8000u) | (r & 0x7fffu))};
}

}  // namespace gw::GW_ISA
