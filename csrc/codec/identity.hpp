// identity: fp32 values verbatim. Lossless; the codec to copy when adding one.
// Error bound: 0.
#pragma once
#include "codec/codec_entry.hpp"

namespace gw::GW_ISA {

struct Identity {
  static constexpr const char* kName = "identity";
  static constexpr bool kLossy = false;

  static constexpr const char* kParameters = "";
  static CodecShape shape(const CodecParams&) { return {}; }
  static uint32_t pack(const CodecShape&) { return 0; }
  static bool unpack(uint32_t, CodecShape&) { return true; }
  static std::string arguments(const CodecShape&) { return ""; }
  static size_t encoded_bytes(const CodecShape&, size_t count) { return count * sizeof(float); }

  static void encode(const CodecShape&, const float* x, size_t count, std::byte* payload, float* loss) {
    if (count == 0) return;  // pointers of empty arrays may be null, which memcpy does not allow
    __builtin_memcpy(payload, x, count * sizeof(float));
    if (loss) __builtin_memset(loss, 0, count * sizeof(float));
  }
  static void decode(const CodecShape&, const std::byte* payload, size_t count, float* out) {
    if (count) __builtin_memcpy(out, payload, count * sizeof(float));
  }
  static void decode_add(const CodecShape&, const std::byte* payload, size_t count, float* acc) {
    const auto* x = reinterpret_cast<const Any<float>*>(payload);
    GW_IVDEP
    for (size_t i = 0; i < count; ++i) acc[i] += x[i].value;
  }
};

GW_CODEC(0, Identity)

}  // namespace gw::GW_ISA
