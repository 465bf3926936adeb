#include "codec/bit_packing.hpp"

#include <algorithm>
#include <cstring>

namespace gw {

// Eight codes are `bits` whole bytes: a word of 64 bits holds them.
void pack_bits(const uint8_t* codes, size_t count, int bits, uint8_t* packed) {
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  for (size_t i = 0; i < count; i += 8) {
    const size_t n = std::min<size_t>(8, count - i);
    uint64_t word = 0;
    for (size_t j = 0; j < n; ++j) word |= (codes[i + j] & mask) << (j * static_cast<size_t>(bits));
    std::memcpy(packed, &word, packed_bytes(n, bits));
    packed += bits;
  }
}

void unpack_bits(const uint8_t* packed, size_t count, int bits, uint8_t* codes) {
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  for (size_t i = 0; i < count; i += 8) {
    const size_t n = std::min<size_t>(8, count - i);
    uint64_t word = 0;
    std::memcpy(&word, packed, packed_bytes(n, bits));
    for (size_t j = 0; j < n; ++j)
      codes[i + j] = static_cast<uint8_t>((word >> (j * static_cast<size_t>(bits))) & mask);
    packed += bits;
  }
}

}  // namespace gw
