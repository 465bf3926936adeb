// The bit slices of codec/slices.hpp, made by the lanes of a warp: a row's 256 codes lie in shared memory, one a byte, and
// each lane joins those of one word.
#pragma once
#include "cuda/memory.cuh"

namespace gw::cuda {

// One slice of all blocks of a row: bits [shift, shift + Width) of the codes. `out` is where the slice of the first block
// goes; blocks follow every `stride` bytes.
template <int Width>
GW_DEVICE void pack_slices(const uint8_t* codes, int shift, uint32_t block, uint32_t stride, uint8_t* out,
                           uint32_t lane) {
  constexpr uint32_t kMask = 0x01010101u * ((1u << Width) - 1), kPerByte = 8 / Width;
  const uint32_t bytes = block * Width / 8, words = bytes / 4;  // of a block
  for (uint32_t i = lane; i < 256u / 32 * Width; i += 32) {
    const uint32_t b = i / words, at = i % words * 4;
    uint32_t packed = 0;
    for (uint32_t p = 0; p < kPerByte; ++p)
      packed |= (*reinterpret_cast<const uint32_t*>(codes + b * block + at + p * bytes) >> shift & kMask)
                << (p * Width);
    put_word(out + b * stride + at, packed);
  }
}
// The row's codes, 8 from each lane, which pass through its 256 bytes of `codes`.
template <int Bits>
GW_DEVICE void pack_row(const uint8_t (&mine)[kValues], uint8_t* codes, uint32_t block, uint32_t stride,
                        uint8_t* out, uint32_t lane) {
  uint32_t words[2];
  __builtin_memcpy(words, mine, kValues);
  __syncwarp();  // all have read the codes of the row before
  *reinterpret_cast<uint2*>(codes + lane * kValues) = {words[0], words[1]};
  __syncwarp();
  if constexpr ((Bits & 4) != 0) pack_slices<4>(codes, 0, block, stride, out, lane);
  if constexpr ((Bits & 2) != 0)
    pack_slices<2>(codes, Bits & 4, block, stride, out + block * (Bits & 4) / 8, lane);
  if constexpr ((Bits & 1) != 0)
    pack_slices<1>(codes, Bits & 6, block, stride, out + block * (Bits & 6) / 8, lane);
}

// Four codes of a block, from the `at`-th on (a multiple of 4), one a byte.
template <int Width>
GW_DEVICE uint32_t slice_word(const uint8_t* slice, uint32_t block, uint32_t at) {
  constexpr uint32_t kMask = 0x01010101u * ((1u << Width) - 1);
  const uint32_t bytes = block * Width / 8;
  return get_word(slice + at % bytes) >> (at / bytes * Width) & kMask;
}
template <int Bits>
GW_DEVICE uint32_t unpack_four(const uint8_t* slices, uint32_t block, uint32_t at) {
  if constexpr (Bits == 8) return get_word(slices + at);
  uint32_t codes = 0;
  if constexpr ((Bits & 4) != 0) codes |= slice_word<4>(slices, block, at);
  if constexpr ((Bits & 2) != 0)
    codes |= slice_word<2>(slices + block * (Bits & 4) / 8, block, at) << (Bits & 4);
  if constexpr ((Bits & 1) != 0)
    codes |= slice_word<1>(slices + block * (Bits & 6) / 8, block, at) << (Bits & 6);
  return codes;
}

// The 8 from the `at`-th on.
template <int Bits>
GW_DEVICE void unpack_eight(const uint8_t* slices, uint32_t block, uint32_t at, uint8_t (&codes)[kValues]) {
  const uint32_t words[2] = {unpack_four<Bits>(slices, block, at), unpack_four<Bits>(slices, block, at + 4)};
  __builtin_memcpy(codes, words, kValues);
}

// Of a short block the first min(length, slice) bytes of each slice travel. In place, to the front and back.
template <int Bits>
GW_DEVICE uint32_t short_slices(uint32_t block, uint32_t length) {
  if (Bits == 8) return length;
  uint32_t bytes = 0;
  for (uint32_t w = 4; w > 0; w /= 2)
    if (Bits & w) bytes += min_of(length, block * w / 8);
  return bytes;
}
template <int Bits>
GW_DEVICE void shorten_slices(uint8_t* slices, uint32_t block, uint32_t length) {
  if (Bits == 8) return;
  uint32_t from = 0, to = 0;
  for (uint32_t w = 4; w > 0; w /= 2) {
    if (!(Bits & w)) continue;
    const uint32_t whole = block * w / 8, sent = min_of(length, whole);
    for (uint32_t i = 0; i < sent; ++i) slices[to + i] = slices[from + i];
    from += whole;
    to += sent;
  }
}
template <int Bits>
GW_DEVICE void widen_slices(uint8_t* slices, uint32_t block, uint32_t length) {
  if (Bits == 8) {
    for (uint32_t i = length; i < block; ++i) slices[i] = 0;
    return;
  }
  uint32_t from = short_slices<Bits>(block, length), to = block * Bits / 8;
  for (uint32_t w = 1; w <= 4; w *= 2) {  // the last one first
    if (!(Bits & w)) continue;
    const uint32_t whole = block * w / 8, sent = min_of(length, whole);
    from -= sent;
    to -= whole;
    for (uint32_t i = whole; i-- > 0;) slices[to + i] = i < sent ? slices[from + i] : uint8_t{0};
  }
}

}  // namespace gw::cuda
