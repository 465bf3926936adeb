// A copy that keeps its speed. The C library's memcpy uses `rep movsb` for large blocks, which on AMD Zen 3 and 4 falls
// to 2.4 GB/s for some pairs of addresses (seen here for 128 KiB into a mirrored ring, 2026-11; this loop: 20 GB/s).
#pragma once
#include "codec/isa.hpp"
#include "codec/simd.hpp"

namespace gw::GW_ISA {

// One cache line at any address; four 16-byte moves where the instruction set has no wider ones.
typedef char CacheLine __attribute__((vector_size(64), aligned(1), may_alias));

static void copy(const void* in, void* out, size_t bytes) {
  const auto* from = static_cast<const CacheLine*>(in);
  auto* to = static_cast<CacheLine*>(out);
  size_t lines = bytes / 64;
  for (; lines >= 4; lines -= 4, from += 4, to += 4) {
    const CacheLine a = from[0], b = from[1], c = from[2], d = from[3];
    to[0] = a;
    to[1] = b;
    to[2] = c;
    to[3] = d;
    asm volatile("" ::: "memory");  // or GCC recognises the loop and calls memcpy
  }
  const size_t rest = bytes % 64 + lines * 64;
  __builtin_memcpy(to, from, rest);  // under 256 bytes: no `rep movsb`
}

}  // namespace gw::GW_ISA
