// How a quantiser rounds and what its codes stand for, one value at a time: the grids of codec/quant.hpp and codec/sign.hpp.
// The Lloyd-Max levels are tables in shared memory, made of the constants of codec/levels.hpp when a kernel starts.
#pragma once
#include <utility>

#include "cuda/device.cuh"
// then
#include "codec/levels.hpp"
#include "codec/random.hpp"
#include "codec/scale.hpp"

namespace gw::cuda {

// The fine code of 8 bits -> code, and code -> level.
struct LevelTables {
  uint8_t code[256];
  int8_t level[64];
};

template <int Bits, size_t... K>
GW_DEVICE uint8_t nearest_code(int q, std::index_sequence<K...>) {
  return static_cast<uint8_t>((0 + ... + (K > 0 && q >= first_of_level<Bits>(K > 0 ? K : 1))));
}
template <int Bits, size_t... K>
GW_DEVICE int8_t level_at(uint32_t code, std::index_sequence<K...>) {
  int level = 0;
  ((level = code == K ? int{std::integral_constant<int, LloydMax<Bits>::kLevels[K]>::value} : level), ...);
  return static_cast<int8_t>(level);
}

// Every grid: kBits; kRandom; kFitted; kMeets; Tables, fill; scale(stat); fine(x, inverse, draws, k);
// code(tables, fine, meeting); level(tables, code).
template <int Bits, bool Random>
struct EvenGrid {
  static constexpr int kBits = Bits;
  static constexpr bool kRandom = Random, kFitted = false, kMeets = false;
  struct Tables {};
  static GW_DEVICE void fill(Tables&, uint32_t) {}

  static GW_DEVICE Scale scale(uint32_t stat) {
    return Random ? even_scale_of<Bits>(stat) : scale_of<Bits>(stat);
  }
  static GW_DEVICE int fine(float x, float inverse, const Draws& draws, uint32_t k) {
    return Random ? random_code_of<Bits>(x, inverse, draws(k)) : code_of<Bits>(x, inverse);
  }
  static GW_DEVICE uint8_t code(const Tables&, int fine, int) {
    return static_cast<uint8_t>(fine & ((1 << Bits) - 1));
  }
  static GW_DEVICE int level(const Tables&, uint32_t code) {
    constexpr int kSign = 1 << (Bits - 1);
    return static_cast<int>(code ^ kSign) - kSign;
  }
};

template <int Bits>
struct LloydGrid {
  static constexpr int kBits = Bits;
  static constexpr bool kRandom = false, kFitted = Bits <= 3, kMeets = Bits == 2;
  using Tables = LevelTables;
  static GW_DEVICE void fill(Tables& t, uint32_t thread) {
    constexpr auto kAll = std::make_index_sequence<1 << Bits>();
    const int q = static_cast<int>(thread) - 128;
    if (thread < 256) t.code[thread] = nearest_code<Bits>(q, kAll);
    if (thread < (1u << Bits)) t.level[thread] = level_at<Bits>(thread, kAll);
  }

  static GW_DEVICE Scale scale(uint32_t stat) { return scale_of<8>(stat); }
  static GW_DEVICE int fine(float x, float inverse, const Draws&, uint32_t) { return code_of<8>(x, inverse); }
  static GW_DEVICE uint8_t code(const Tables& t, int fine, int meeting) {
    return kMeets ? code_of_level2(fine, meeting) : t.code[fine + 128];
  }
  static GW_DEVICE int level(const Tables& t, uint32_t code) { return t.level[code]; }
};

struct SignOnly {
  static constexpr int kBits = 1;
  static constexpr bool kRandom = false, kFitted = true, kMeets = false;
  struct Tables {};
  static GW_DEVICE void fill(Tables&, uint32_t) {}

  static GW_DEVICE Scale scale(uint32_t stat) { return scale_of<8>(stat); }
  static GW_DEVICE int fine(float x, float inverse, const Draws&, uint32_t) { return code_of<8>(x, inverse); }
  static GW_DEVICE uint8_t code(const Tables&, int fine, int) { return fine >= 0; }
  static GW_DEVICE int level(const Tables&, uint32_t code) { return 2 * static_cast<int>(code) - 1; }
};

}  // namespace gw::cuda
