// Random numbers without state: a number is a function of (seed, step, stream, element) alone, so that the same element
// draws the same number on every device, however an array is cut. A 64-bit mix (splitmix64) makes two keys of all but
// the lower half of the element's index; per element there are two rounds of multiply and shift in 32 bits (the
// constants are those of "lowbias32", by Chris Wellons), about eight instructions that vectorise everywhere.
// For rounding and for signs, not for secrets.
#pragma once
#include "codec/simd.hpp"

namespace gw::GW_ISA {

GW_INLINE uint64_t mix64(uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// The numbers of the 2^32 elements that share the upper half of their index.
struct Draws {
  uint32_t first, key0, key1;

  // 32 random bits for the element `j` places after the one the draws were made for; no carry into the upper half.
  GW_INLINE uint32_t operator()(uint32_t j) const {
    uint32_t x = (first + j) ^ key0;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = ((x ^ (x >> 15)) + key1) * 0x846ca68bu;
    return x ^ (x >> 16);
  }
};

struct Key {
  uint64_t key;

  GW_INLINE Key(uint32_t seed, uint64_t step, uint32_t stream)
      : key(mix64(step ^ mix64(uint64_t{seed} << 32 | stream))) {}
  GW_INLINE explicit Key(uint64_t ready) : key(ready) {}
  GW_INLINE Draws at(uint64_t element) const {
    const uint64_t k = mix64(key ^ (element >> 32));
    return {static_cast<uint32_t>(element), static_cast<uint32_t>(k), static_cast<uint32_t>(k >> 32)};
  }
};

}  // namespace gw::GW_ISA
