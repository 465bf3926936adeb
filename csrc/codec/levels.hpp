// Where the decoded values of a quantiser lie, in units of the scale of a block whose largest value is -128: whole
// numbers from -128 to 127, so that value = level * d stays exact.
//
// The tables are Lloyd-Max levels of blocks of 128 values of N(0, 1) that were scaled by their largest one: the best
// partition of the 256 fine codes into 2^b intervals (dynamic programming over the histogram of 2^21 values, weighted
// by the squared scale), with two levels held: -128, where the largest value is, and 0, so that zeros stay zeros and no
// element moves by more than its own size. At block 128, 4 bits: 9.07 % error instead of 10.3 % with even steps.
// int2 has too few levels for that: see lloyd2 in quant.hpp.
#pragma once
#include <cstdint>

#include "codec/simd.hpp"

namespace gw::GW_ISA {

template <int Bits>
struct LloydMax {};

template <>
struct LloydMax<3> {
  alignas(64) static constexpr int8_t kLevels[16] = {-128, -77, -46, -21, 0, 25, 52, 88};
};
template <>
struct LloydMax<4> {
  alignas(64) static constexpr int8_t kLevels[16] = {-128, -97, -76, -59, -46, -33, -22, -11,
                                                     0,    11,  22,  35,  48,  63,  82,  107};
};
template <>
struct LloydMax<5> {
  alignas(64) static constexpr int8_t kLevels[32] = {-128, -109, -96, -85, -76, -67, -60, -53, -46, -39, -32,
                                                     -25,  -20,  -15, -10, -5,  0,   5,   10,  15,  20,  26,
                                                     33,   40,   47,  54,  61,  70,  79,  90,  103, 118};
};
template <>
struct LloydMax<6> {
  alignas(64) static constexpr int8_t kLevels[64] = {
      -128, -119, -110, -103, -96, -91, -86, -81, -76, -71, -66, -63, -60, -57, -54, -51,
      -48,  -45,  -42,  -39,  -36, -33, -30, -27, -24, -21, -18, -15, -12, -9,  -6,  -3,
      0,    3,    6,    9,    12,  15,  18,  21,  24,  27,  30,  33,  36,  39,  42,  45,
      48,   51,   54,   57,   60,  63,  68,  73,  78,  83,  88,  93,  100, 107, 114, 123};
};

// code[j] = the level nearest to the fine code q[j]; halfway goes up. Counts the levels' boundaries below q: compares of
// bytes, 64 at a time with AVX-512.
template <int Bits, int B>
GW_INLINE void nearest_level(const int8_t* q, uint8_t* code) {
  constexpr auto& kLevels = LloydMax<Bits>::kLevels;
  constexpr int kWide = B < 64 ? B : 64;
  typedef int8_t Wide __attribute__((vector_size(kWide), aligned(1), may_alias));
  for (int j = 0; j < B; j += kWide) {
    const Wide fine = *reinterpret_cast<const Wide*>(q + j);
    Wide count{};
    for (int k = 1; k < (1 << Bits); ++k) {
      const auto from = static_cast<int8_t>((kLevels[k - 1] + kLevels[k] + 257) / 2 - 128);
      count -= fine >= from;  // true is -1
    }
    *reinterpret_cast<Wide*>(code + j) = count;
  }
}

}  // namespace gw::GW_ISA
