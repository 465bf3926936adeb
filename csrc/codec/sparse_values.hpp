// How the kept values of a sparse codec travel: fp32, bf16, or int8 or int4 codes under one bf16 scale a block (the rule of
// quant.hpp with the n kept values as one block). Two int4 codes share a byte, the first in its low half.
#pragma once
#include <string>

#include "codec/codec_entry.hpp"
#include "codec/scale.hpp"

namespace gw::GW_ISA {

// A block, of which a last one keeps the same share as the others, rounded up.
inline constexpr uint32_t kSparseBlock = 4096;
constexpr size_t kept_of(size_t k, size_t length) { return (k * length + kSparseBlock - 1) / kSparseBlock; }

enum ValueKind : uint32_t { kValuesBf16 = 0, kValuesFp32 = 1, kValuesInt8 = 2, kValuesInt4 = 3 };
inline constexpr const char* kValueNames[] = {"bf16", "fp32", "int8", "int4"};

inline uint32_t value_kind(const std::string& name, const char* codec) {
  if (name.empty()) return kValuesBf16;
  for (uint32_t kind = 0; kind < 4; ++kind)
    if (name == kValueNames[kind]) return kind;
  fail_argument(std::string("codec ") + codec +
                ": values must be \"bf16\", \"fp32\", \"int8\" or \"int4\", got \"" + name + "\"");
}

constexpr size_t value_bytes(uint32_t kind, size_t n) {
  return kind == kValuesFp32   ? 4 * n
         : kind == kValuesBf16 ? 2 * n
         : kind == kValuesInt8 ? 2 + n
                               : 2 + (n + 1) / 2;
}

template <int Bits>
inline void put_codes(const float* v, size_t n, std::byte* out) {
  uint32_t stat = 0;
  for (size_t j = 0; j < n; ++j) stat = max_of(stat, statistic(v[j]));
  const Scale scale = scale_of<Bits>(stat);
  put_u16(out, scale.bits);
  __builtin_memset(out + 2, 0, (n * Bits + 7) / 8);
  if (scale.bits == kNanScale) return;
  for (size_t j = 0; j < n; ++j) {
    const auto q = static_cast<uint32_t>(static_cast<int32_t>(code_of<Bits>(v[j], scale.inverse)));
    if constexpr (Bits == 8)
      out[2 + j] = static_cast<std::byte>(q & 0xffu);
    else
      out[2 + j / 2] |= static_cast<std::byte>((q & 15u) << (4 * (j % 2)));
  }
}

inline void put_values(uint32_t kind, const float* v, size_t n, std::byte* out) {
  if (kind == kValuesFp32) {
    __builtin_memcpy(out, v, 4 * n);
  } else if (kind == kValuesBf16) {
    for (size_t j = 0; j < n; ++j) put_u16(out + 2 * j, narrow_to(v[j], bf16_t{}).bits);
  } else if (kind == kValuesInt8) {
    put_codes<8>(v, n, out);
  } else {
    put_codes<4>(v, n, out);
  }
}

inline void get_values(uint32_t kind, const std::byte* in, size_t n, float* v) {
  if (kind == kValuesFp32) {
    __builtin_memcpy(v, in, 4 * n);
  } else if (kind == kValuesBf16) {
    for (size_t j = 0; j < n; ++j) v[j] = widen(bf16_t{get_u16(in + 2 * j)});
  } else {
    const float d = scale_from(in);
    for (size_t j = 0; j < n; ++j) {
      const auto byte =
          static_cast<uint32_t>(static_cast<uint8_t>(in[2 + (kind == kValuesInt8 ? j : j / 2)]));
      const uint32_t code = kind == kValuesInt8 ? byte << 24 : (byte >> (4 * (j % 2))) << 28;
      v[j] = static_cast<float>(static_cast<int32_t>(code) >> (kind == kValuesInt8 ? 24 : 28)) * d;
    }
  }
}

// What is not sent stays in the loss, but never a NaN or Inf.
GW_INLINE void keep_finite(const float* x, size_t length, float* loss) {
  GW_IVDEP
  for (size_t j = 0; j < length; ++j) loss[j] = finite_or_zero(x[j]);
}

}  // namespace gw::GW_ISA
