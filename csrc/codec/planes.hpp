// Codes of 1 to 8 bits, one in a byte, packed without shuffles: a code of w bits is cut into planes of 4, 2
// and 1 bits (those that are set in w, lowest bits of the code first; w = 8 is the bytes as they are). A
// plane of p bits of n codes takes h = ceil(n p / 8) bytes; byte j holds the bits of the codes j, j + h, j +
// 2h, ..., the first one lowest.
#pragma once
#include "codec/simd.hpp"

namespace gw::GW_ISA {

template <int P>
GW_INLINE size_t plane_bytes(size_t n) {
  return (n * P + 7) / 8;
}
GW_INLINE size_t packed_bytes(size_t n, uint32_t w) {
  if (w == 8) return n;
  return (w & 4 ? plane_bytes<4>(n) : 0) + (w & 2 ? plane_bytes<2>(n) : 0) + (w & 1 ? plane_bytes<1>(n) : 0);
}

// Takes the lowest P bits of each code and shifts them out. `codes` has room for 8 more, which are 0.
template <int P>
GW_INLINE std::byte* put_plane(uint8_t* codes, size_t n, std::byte* out) {
  const size_t h = plane_bytes<P>(n);
  auto* to = reinterpret_cast<uint8_t*>(out);
  constexpr uint32_t kMask = (1u << P) - 1;
  for (size_t j = 0; j < h; ++j) {
    uint32_t byte = 0;
    for (int part = 0; part < 8 / P; ++part) byte |= (codes[j + part * h] & kMask) << (P * part);
    to[j] = static_cast<uint8_t>(byte);
  }
  for (size_t j = 0; j < n; ++j) codes[j] = static_cast<uint8_t>(codes[j] >> P);
  return out + h;
}
// The reverse: the plane's bits come to lie at bit Shift of the codes, which are set (Shift = 0) or added to.
// `codes` has room for 8 more, which it spoils.
template <int P, int Shift>
GW_INLINE const std::byte* get_plane(const std::byte* in, size_t n, uint8_t* codes) {
  const size_t h = plane_bytes<P>(n);
  const auto* from = reinterpret_cast<const uint8_t*>(in);
  constexpr uint32_t kMask = (1u << P) - 1;
  for (int part = 0; part < 8 / P; ++part) {
    uint8_t* to = codes + part * h;
    GW_IVDEP
    for (size_t j = 0; j < h; ++j) {
      const auto bits = static_cast<uint8_t>(((from[j] >> (P * part)) & kMask) << Shift);
      to[j] = Shift == 0 ? bits : static_cast<uint8_t>(to[j] | bits);
    }
  }
  return in + h;
}

// Codes of W bits; they are used up.
template <int W>
GW_INLINE std::byte* put_width(uint8_t* codes, size_t n, std::byte* out) {
  if constexpr (W & 4) out = put_plane<4>(codes, n, out);
  if constexpr (W & 2) out = put_plane<2>(codes, n, out);
  if constexpr (W & 1) out = put_plane<1>(codes, n, out);
  return out;
}
template <int W>
GW_INLINE const std::byte* get_width(const std::byte* in, size_t n, uint8_t* codes) {
  if constexpr (W & 4) in = get_plane<4, 0>(in, n, codes);
  if constexpr (W & 2) in = get_plane<2, W & 4>(in, n, codes);
  if constexpr (W & 1) in = get_plane<1, W & 6>(in, n, codes);
  return in;
}

// w = 0 to 8. Constant shifts, or the compiler would widen the bytes to shift them.
GW_INLINE std::byte* put_packed(uint8_t* codes, size_t n, uint32_t w, std::byte* out) {
  switch (w) {
    case 0:
      return out;
    case 1:
      return put_width<1>(codes, n, out);
    case 2:
      return put_width<2>(codes, n, out);
    case 3:
      return put_width<3>(codes, n, out);
    case 4:
      return put_width<4>(codes, n, out);
    case 5:
      return put_width<5>(codes, n, out);
    case 6:
      return put_width<6>(codes, n, out);
    case 7:
      return put_width<7>(codes, n, out);
    default:
      __builtin_memcpy(out, codes, n);
      return out + n;
  }
}
GW_INLINE const std::byte* get_packed(const std::byte* in, size_t n, uint32_t w, uint8_t* codes) {
  switch (w) {
    case 0:
      __builtin_memset(codes, 0, n);
      return in;
    case 1:
      return get_width<1>(in, n, codes);
    case 2:
      return get_width<2>(in, n, codes);
    case 3:
      return get_width<3>(in, n, codes);
    case 4:
      return get_width<4>(in, n, codes);
    case 5:
      return get_width<5>(in, n, codes);
    case 6:
      return get_width<6>(in, n, codes);
    case 7:
      return get_width<7>(in, n, codes);
    default:
      __builtin_memcpy(codes, in, n);
      return in + n;
  }
}

}  // namespace gw::GW_ISA
