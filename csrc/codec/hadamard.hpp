// The Walsh-Hadamard transform of 128 values in place, not normalised: y_i = sum_j (-1)^popcount(i & j) x_j. Twice is
// 128 x. Seven rounds of sums and differences, at distances 64, 32, ... 1; within a vector by one shuffle each. The order
// of additions is the same for every width of vectors, and so are the bits.
#pragma once
#include "codec/simd.hpp"

namespace gw::GW_ISA {

inline constexpr int kHadamard = 128;
inline constexpr int kLanes = kVectorBytes / sizeof(float);
typedef float Lanes __attribute__((vector_size(kVectorBytes), may_alias));
typedef int32_t LaneBits __attribute__((vector_size(kVectorBytes), may_alias));

// Lane i and lane i + H become their sum and their difference.
template <int H>
GW_INLINE void butterfly(Lanes& v) {
  LaneBits other, sign;
  for (int i = 0; i < kLanes; ++i) {
    other[i] = i ^ H;
    sign[i] = i & H ? INT32_MIN : 0;
  }
  v = __builtin_shuffle(v, other) + reinterpret_cast<Lanes>(reinterpret_cast<LaneBits>(v) ^ sign);
}

// Sums and differences of whole vectors H apart.
template <int H, int N>
GW_INLINE void butterflies(Lanes* v) {
#pragma GCC unroll 32
  for (int i = 0; i < N / 2; ++i) {
    const int low = i / H * 2 * H + i % H;
    const Lanes a = v[low], b = v[low + H];
    v[low] = a + b;
    v[low + H] = a - b;
  }
}

// x: 64-byte aligned.
GW_INLINE void hadamard(float* x) {
  constexpr int kVectors = kHadamard / kLanes;
  auto* memory = reinterpret_cast<Lanes*>(x);
  Lanes v[kVectors];
#pragma GCC unroll 32
  for (int i = 0; i < kVectors; ++i) v[i] = memory[i];
  if constexpr (kVectors > 16) butterflies<16, kVectors>(v);
  if constexpr (kVectors > 8) butterflies<8, kVectors>(v);
  butterflies<4, kVectors>(v);
  butterflies<2, kVectors>(v);
  butterflies<1, kVectors>(v);
#pragma GCC unroll 32
  for (int i = 0; i < kVectors; ++i) {
    if constexpr (kLanes > 8) butterfly<8>(v[i]);
    if constexpr (kLanes > 4) butterfly<4>(v[i]);
    butterfly<2>(v[i]);
    butterfly<1>(v[i]);
    memory[i] = v[i];
  }
}

}  // namespace gw::GW_ISA
