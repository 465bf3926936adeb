// A copy that keeps its speed. The C library's memcpy uses `rep movsb` for large blocks, which on AMD Zen 3 and 4 falls
// to 2.4 GB/s for some pairs of addresses (seen here for 128 KiB into a mirrored ring, 2026-11; this loop: 20 GB/s).
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "codec/isa.hpp"
#include "codec/simd.hpp"

namespace gw::GW_ISA {

// Four 16-byte moves where the instruction set has no wider ones.
typedef char CacheLine __attribute__((vector_size(64)));

static void copy(const void* in, void* out, size_t bytes) {
  const auto* from = static_cast<const Any<CacheLine>*>(in);
  auto* to = static_cast<Any<CacheLine>*>(out);
  size_t lines = bytes / 64;
  for (; lines >= 4; lines -= 4, from += 4, to += 4) {
    const auto a = from[0], b = from[1], c = from[2], d = from[3];
    to[0] = a;
    to[1] = b;
    to[2] = c;
    to[3] = d;
    asm volatile("" ::: "memory");  // or GCC recognises the loop and calls memcpy
  }
  const size_t rest = bytes % 64 + lines * 64;
  __builtin_memcpy(to, from, rest);  // under 256 bytes: no `rep movsb`
}

// The same past the caches: `out` is a multiple of 64. Pays where the lines of `out` lie in another core's cache and the
// two share none: a plain store must first fetch each line from there.
static void copy_streaming(const void* in, void* out, size_t bytes) {
#if defined(__x86_64__)
  const auto* from = static_cast<const Any<CacheLine>*>(in);
  auto* to = static_cast<char*>(out);
  const size_t lines = bytes / 64;
  for (size_t i = 0; i < lines; ++i, to += 64) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), __builtin_bit_cast(__m512i, from[i].value));
#else
    __m128i part[4];
    __builtin_memcpy(part, from + i, 64);
    for (int j = 0; j < 4; ++j) _mm_stream_si128(reinterpret_cast<__m128i*>(to) + j, part[j]);
#endif
  }
  _mm_sfence();  // the message is published with an ordinary store, which must not overtake these
  __builtin_memcpy(to, from + lines, bytes % 64);
#else
  copy(in, out, bytes);
#endif
}

}  // namespace gw::GW_ISA
