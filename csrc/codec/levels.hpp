// Where the decoded values of a quantiser lie, in units of the scale of a block whose largest value is -128: whole
// numbers from -128 to 127, so that value = level * d stays exact.
//
// The tables are Lloyd-Max levels of blocks of 128 values of N(0, 1) that were scaled by their largest one: the best
// partition of the 256 fine codes into 2^b intervals (dynamic programming over the histogram of 2^21 values, weighted
// by the squared scale), with two levels held: -128, where the largest value is, and 0, so that zeros stay zeros and no
// element moves by more than its own size. At block 128, 4 bits: 9.07 % error instead of 10.3 % with even steps.
// int2 has too few levels to spare two: four of N(0, 1), -+0.4528 and -+1.5104 standard deviations, which meet at 0.9816.
#pragma once
#include <cstdint>

#include "codec/simd.hpp"

namespace gw::GW_ISA {

template <int Bits>
struct LloydMax {};

template <>
struct LloydMax<2> {
  alignas(64) static constexpr int8_t kLevels[16] = {-100, -30, 30, 100};
};
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

// The lowest fine code that belongs to level k and not to the one below.
template <int Bits>
constexpr int8_t first_of_level(int k) {
  return static_cast<int8_t>((LloydMax<Bits>::kLevels[k - 1] + LloydMax<Bits>::kLevels[k] + 257) / 2 - 128);
}

// Where the two upper levels of int2 meet: t, with B t^2 = 0.9816^2 times the sum of the block's squared fine codes. 64-bit
// integers, so that no rounding mode or order matters; B = 2^log2_block.
GW_INLINE int32_t meeting_of_level2(int32_t squares, int log2_block) {
  const int64_t scaled = static_cast<int64_t>(squares) * 63147 >> (16 + log2_block);
  int32_t t = 0;
  for (int step = 128; step > 0; step /= 2)
    if (static_cast<int64_t>(t + step) * (t + step) <= scaled) t += step;
  return t;
}
GW_INLINE uint8_t code_of_level2(int32_t q, int32_t meeting) {
  const int above = q > meeting, below = q >= -meeting, positive = q >= 0;
  return static_cast<uint8_t>(above + below + positive);
}

#ifndef __CUDACC__
// code[j] = the level nearest to the fine code q[j]; halfway goes up. Counts the levels' boundaries below q: compares of
// bytes, 64 at a time with AVX-512.
template <int Bits, int B>
GW_INLINE void nearest_level(const int8_t* q, uint8_t* code) {
  constexpr int kWide = B < 64 ? B : 64;
  typedef int8_t Wide __attribute__((vector_size(kWide), aligned(1), may_alias));
  for (int j = 0; j < B; j += kWide) {
    const Wide fine = *reinterpret_cast<const Wide*>(q + j);
    Wide count{};
    for (int k = 1; k < (1 << Bits); ++k) {
      const int8_t from = first_of_level<Bits>(k);
      count -= fine >= from;  // true is -1
    }
    *reinterpret_cast<Wide*>(code + j) = count;
  }
}
#endif

}  // namespace gw::GW_ISA
