// Codes of 1 to 8 bits side by side: code i takes bits [i b, (i + 1) b) of the packed bytes, lowest bit first. The last
// byte is filled up with zeros.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gw {

constexpr size_t packed_bytes(size_t count, int bits) { return (count * static_cast<size_t>(bits) + 7) / 8; }

// Bits above `bits` of a code are dropped.
void pack_bits(const uint8_t* codes, size_t count, int bits, uint8_t* packed);
// packed: packed_bytes(count, bits) bytes.
void unpack_bits(const uint8_t* packed, size_t count, int bits, uint8_t* codes);

}  // namespace gw
