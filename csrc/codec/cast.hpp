// bf16 and fp16: each value rounded to nearest even to 16 bits, as the IEEE conversion does: what is too large becomes
// Inf (fp16: from 65520), NaN stays NaN.
// Error bound of a finite result: |x - decoded| <= 2^-8 |x| + 2^-134 (bf16), 2^-11 |x| + 2^-25 (fp16); the second term
// is half a unit of the smallest subnormal.
#pragma once
#include "codec/codec_entry.hpp"

namespace gw::GW_ISA {

template <class Half>
struct Cast {
  static constexpr bool kLossy = true;
  static constexpr const char* kParameters = "";

  static CodecShape shape(const CodecParams&) { return {}; }
  static uint32_t pack(const CodecShape&) { return 0; }
  static bool unpack(uint32_t, CodecShape&) { return true; }
  static std::string arguments(const CodecShape&) { return ""; }
  static size_t encoded_bytes(const CodecShape&, size_t count) { return count * sizeof(Half); }

  static void encode(const CodecShape&, const float* x, size_t count, std::byte* payload, float* loss) {
    auto* out = reinterpret_cast<Any<Half>*>(payload);
    if (!loss) {
      GW_IVDEP
      for (size_t i = 0; i < count; ++i) out[i].value.bits = narrow_to(x[i], Half{}).bits;
      return;
    }
    GW_IVDEP
    for (size_t i = 0; i < count; ++i) {
      const float v = x[i];
      const Half h = narrow_to(v, Half{});
      out[i].value.bits = h.bits;  // a struct copy would stop the vectoriser
      loss[i] = finite_or_zero(v - widen(h));
    }
  }
  static void decode(const CodecShape&, const std::byte* payload, size_t count, float* out) {
    const auto* x = reinterpret_cast<const Any<Half>*>(payload);
    GW_IVDEP
    for (size_t i = 0; i < count; ++i) out[i] = widen(x[i].value);
  }
  static void decode_add(const CodecShape&, const std::byte* payload, size_t count, float* acc) {
    const auto* x = reinterpret_cast<const Any<Half>*>(payload);
    GW_IVDEP
    for (size_t i = 0; i < count; ++i) acc[i] += widen(x[i].value);
  }
};

struct Bf16 : Cast<bf16_t> {
  static constexpr const char* kName = "bf16";
};
struct Fp16 : Cast<f16_t> {
  static constexpr const char* kName = "fp16";
};

GW_CODEC(1, Bf16)
GW_CODEC(2, Fp16)

}  // namespace gw::GW_ISA
