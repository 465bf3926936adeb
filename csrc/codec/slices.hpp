// Codes of 1 to 8 bits packed without shuffles, so that every instruction set packs many at a time. The bits of a code
// are cut into slices of 4, 2 and 1 bits, lowest first (6 = 4 + 2, 5 = 4 + 1, 3 = 2 + 1), and each slice of the block is
// an array of bytes of its own: with w bits a slice has B w / 8 bytes, and byte j holds elements j, j + B w / 8,
// j + 2 B w / 8, ... from the low bits up. 8 bits are bytes in order.
//
// A short block is packed as if zeros followed, and sends the first min(L, B w / 8) bytes of each slice: those that hold
// its L elements.
#pragma once
#include <type_traits>

#include "codec/codec_entry.hpp"

namespace gw::GW_ISA {

// Eight bytes at a time in general registers or vectors; a slice of 4 bytes is one smaller word.
template <int Bytes>
using SliceWord = std::conditional_t<Bytes % 8 == 0, uint64_t, uint32_t>;

template <int Width, int B>
GW_INLINE void pack_slice(const uint8_t* codes, int shift, uint8_t* out) {
  constexpr int kBytes = B * Width / 8, kPerByte = 8 / Width;
  using Word = SliceWord<kBytes>;
  constexpr Word kMask = static_cast<Word>(0x0101010101010101u) * ((1 << Width) - 1);
  for (int j = 0; j < kBytes; j += static_cast<int>(sizeof(Word))) {
    Word packed = 0;
    for (int p = 0; p < kPerByte; ++p)
      packed |= (reinterpret_cast<const Any<Word>*>(codes + j + p * kBytes)->value >> shift & kMask)
                << (p * Width);
    reinterpret_cast<Any<Word>*>(out + j)->value = packed;
  }
}
template <int Width, int B, bool First>
GW_INLINE void unpack_slice(const uint8_t* in, int shift, uint8_t* codes) {
  constexpr int kBytes = B * Width / 8, kPerByte = 8 / Width;
  using Word = SliceWord<kBytes>;
  constexpr Word kMask = static_cast<Word>(0x0101010101010101u) * ((1 << Width) - 1);
  for (int j = 0; j < kBytes; j += static_cast<int>(sizeof(Word))) {
    const Word packed = reinterpret_cast<const Any<Word>*>(in + j)->value;
    for (int p = 0; p < kPerByte; ++p) {
      auto* to = reinterpret_cast<Any<Word>*>(codes + j + p * kBytes);
      const Word part = (packed >> (p * Width) & kMask) << shift;
      to->value = First ? part : to->value | part;
    }
  }
}

// Bytes of a block of `block` elements, of which `length` travel.
GW_INLINE size_t sliced_bytes(int bits, size_t block, size_t length) {
  if (bits == 8) return length;
  size_t bytes = 0;
  for (int w = 4; w > 0; w /= 2)
    if (bits & w) bytes += min_of(length, block * static_cast<size_t>(w) / 8);
  return bytes;
}

template <int Bits, int B>
struct Slices {
  static constexpr int kBytes = B * Bits / 8;

  static GW_INLINE void pack(const uint8_t* codes, uint8_t* out) {
    if constexpr (Bits == 8) __builtin_memcpy(out, codes, B);
    if constexpr ((Bits & 4) != 0) pack_slice<4, B>(codes, 0, out);
    if constexpr ((Bits & 2) != 0) pack_slice<2, B>(codes, Bits & 4, out + B * (Bits & 4) / 8);
    if constexpr ((Bits & 1) != 0) pack_slice<1, B>(codes, Bits & 6, out + B * (Bits & 6) / 8);
  }
  static GW_INLINE void unpack(const uint8_t* in, uint8_t* codes) {
    if constexpr (Bits == 8) __builtin_memcpy(codes, in, B);
    if constexpr ((Bits & 4) != 0) unpack_slice<4, B, true>(in, 0, codes);
    if constexpr ((Bits & 2) != 0)
      unpack_slice<2, B, (Bits & 4) == 0>(in + B * (Bits & 4) / 8, Bits & 4, codes);
    if constexpr ((Bits & 1) != 0) unpack_slice<1, B, Bits == 1>(in + B * (Bits & 6) / 8, Bits & 6, codes);
  }

  // All bytes of a block <-> those that travel if it has `length` elements.
  static void shorten(const uint8_t* whole, size_t length, uint8_t* out) { move<false>(whole, length, out); }
  static void widen_short(const uint8_t* in, size_t length, uint8_t* whole) { move<true>(in, length, whole); }

 private:
  template <bool Widen>
  static void move(const uint8_t* in, size_t length, uint8_t* out) {
    if constexpr (Bits == 8) {
      __builtin_memcpy(out, in, length);
      return;
    }
    for (int w = 4; w > 0; w /= 2) {
      if (!(Bits & w)) continue;
      const auto slice = static_cast<size_t>(B * w / 8), sent = min_of(length, slice);
      __builtin_memcpy(out, in, sent);
      in += Widen ? sent : slice;
      out += Widen ? slice : sent;
    }
  }
};

}  // namespace gw::GW_ISA
