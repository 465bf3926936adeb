// How the places of n chosen ones among `length` elements travel: increasing numbers, in the fewest bits that a size known
// beforehand allows. Three codes, of which the smallest for (n, length) is taken, by a rule that both sides compute:
//
//   plain    n numbers of `width` bits, where 2^width >= length
//   split(l) Elias-Fano: the l low bits of each number, then a row of n + ((length - 1) >> l) bits in which the i-th one
//            stands at place i + (number >> l)   [Elias 1974; Vigna, Quasi-succinct indices, 2013]
//   bitmap   one bit an element
//
// At 1 % of 4096: plain 12 bits an index, split 8.6, the entropy is 8.1. All bits go from the lowest of the first byte
// upward; what is left of the last byte is 0. Each set has one spelling, and a reader accepts no other.
#pragma once
#include "codec/simd.hpp"

namespace gw::GW_ISA {

struct IndexCode {
  enum Kind : uint32_t { plain, split, bitmap } kind = plain;
  uint32_t low = 0;  // bits of a number that are sent as they are
  size_t bytes = 0;
};

constexpr IndexCode index_code(size_t n, size_t length) {
  uint32_t width = 0;
  while (width < 32 && (size_t{1} << width) < length) ++width;
  IndexCode best{IndexCode::plain, width, 0};
  size_t bits = n * width;
  for (uint32_t low = 0; low < width; ++low) {
    const size_t here = n * (low + 1) + ((length - 1) >> low);
    if (here < bits) {
      bits = here;
      best = {IndexCode::split, low, 0};
    }
  }
  if (length < bits) {
    bits = length;
    best = {IndexCode::bitmap, 0, 0};
  }
  best.bytes = (bits + 7) / 8;
  return best;
}

namespace index_bits {
// Up to 8 of the `size` bytes, from byte `at` on; zeros behind the last.
GW_INLINE uint64_t word(const std::byte* in, size_t size, size_t at) {
  uint64_t v = 0;
  if (at + 8 <= size)
    __builtin_memcpy(&v, in + at, 8);
  else
    for (size_t i = at; i < size; ++i) v |= uint64_t{static_cast<uint8_t>(in[i])} << (8 * (i - at));
  return v;
}
GW_INLINE void set(std::byte* out, size_t bit) { out[bit / 8] |= static_cast<std::byte>(1u << (bit % 8)); }
// A value of at most 32 bits at `bit`; touches only the bytes that hold them.
GW_INLINE void put(std::byte* out, size_t bit, uint32_t value) {
  uint64_t v = uint64_t{value} << (bit % 8);
  for (std::byte* to = out + bit / 8; v; v >>= 8) *to++ |= static_cast<std::byte>(v);
}
GW_INLINE uint32_t get(const std::byte* in, size_t size, size_t bit, uint32_t width) {
  return static_cast<uint32_t>((word(in, size, bit / 8) >> (bit % 8)) & ((uint64_t{1} << width) - 1));
}
}  // namespace index_bits

// indices: n increasing numbers below length. Writes code.bytes bytes.
inline void put_indices(const IndexCode& code, const uint32_t* indices, size_t n, std::byte* out) {
  __builtin_memset(out, 0, code.bytes);
  if (code.kind == IndexCode::bitmap) {
    for (size_t i = 0; i < n; ++i) index_bits::set(out, indices[i]);
    return;
  }
  const uint32_t mask = static_cast<uint32_t>((uint64_t{1} << code.low) - 1);
  for (size_t i = 0; i < n; ++i) index_bits::put(out, i * code.low, indices[i] & mask);
  if (code.kind == IndexCode::split)
    for (size_t i = 0; i < n; ++i) index_bits::set(out, n * code.low + i + (indices[i] >> code.low));
}

// Reads code.bytes bytes. False unless they are what put_indices writes for n increasing numbers below length; then
// `indices` (room for n) holds anything.
inline bool get_indices(const IndexCode& code, const std::byte* in, size_t n, size_t length,
                        uint32_t* indices) {
  const size_t bits = code.bytes * 8;
  size_t found = 0;
  if (code.kind == IndexCode::plain) {
    for (; found < n; ++found) indices[found] = index_bits::get(in, code.bytes, found * code.low, code.low);
    for (size_t bit = n * code.low; bit < bits; ++bit)
      if (index_bits::get(in, code.bytes, bit, 1)) return false;
  } else {
    const size_t start = code.kind == IndexCode::split ? n * code.low : 0;
    for (size_t byte = start / 8; byte < code.bytes; byte += 8) {
      uint64_t ones = index_bits::word(in, code.bytes, byte);
      if (byte == start / 8) ones &= ~uint64_t{0} << (start % 8);
      for (; ones; ones &= ones - 1) {
        if (found == n) return false;
        const size_t place = byte * 8 + static_cast<size_t>(__builtin_ctzll(ones)) - start;
        if (code.kind == IndexCode::bitmap) {
          indices[found++] = static_cast<uint32_t>(place);
          continue;
        }
        const auto high = static_cast<uint32_t>(place - found);
        indices[found] = high << code.low | index_bits::get(in, code.bytes, found * code.low, code.low);
        ++found;
      }
    }
  }
  bool good = found == n;
  for (size_t i = 0; i < found; ++i) good &= indices[i] < length && (i == 0 || indices[i - 1] < indices[i]);
  return good;
}

}  // namespace gw::GW_ISA
