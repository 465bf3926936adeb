// mxfp8_e4m3, mxfp8_e5m2 and mxfp4: the formats MXFP8 and MXFP4 of the OCP Microscaling Formats (MX)
// specification v1.0: 32 values share a scale that is a power of two (E8M0, one byte), 8.25 or 4.25 bits an
// element. For interchange: codes and scales are those of section 6.3 of the specification, and of torchao's
// to_mx in its floor mode.
//
//   d = 2^(floor(log2 max|x|) - emax), at least 2^-127; emax = 8 (E4M3), 15 (E5M2), 2 (E2M1)
//
// As the scale is rounded down, max|x| / d may lie above the largest code: it is held to it, at a loss of at
// most an eighth (fp8) or a quarter (fp4) of the value. Where both can be chosen, fp8_e4m3 with a block and
// int4 are better at equal size. An Inf in a block makes it NaN (torchao in its floor mode would hold it to
// the largest code in silence).
//
// Error bound: 2^-3 |x| + 2^-18 max|x| + 2^-137 (E4M3), 2^-3 |x| + 2^-32 max|x| + 2^-144 (E5M2), 2^-2 |x| +
// 2^-4 max|x| + 2^-129 (E2M1): the first term covers half a step and the values held, the second is half the
// smallest subnormal times d, the third the same for d = 2^-127. Never more than |x|: a contraction.
#pragma once
#include <string>

#include "codec/scaled.hpp"

namespace gw::GW_ISA {

template <class Element>
struct E8M0Scale {
  static constexpr int kBytes = 1;
  static constexpr uint32_t kNan = 0xff;

  static GW_INLINE BlockScale of(uint32_t largest) {
    const uint32_t exponent = largest >> 23;  // biased by 127, as that of the scale
    const uint32_t e = exponent - min_of(exponent, uint32_t{Element::kLargestExponent});
    return {e, value(e), float_of((254u - e) << 23)};
  }
  static GW_INLINE void put(std::byte* p, uint32_t e) { *p = static_cast<std::byte>(e); }
  static GW_INLINE float get(const std::byte* p) { return value(static_cast<uint32_t>(*p)); }

 private:
  // 2^(e - 127); the two ends of the range have no fp32 exponent of their own
  static GW_INLINE float value(uint32_t e) {
    return float_of(e == 0 ? 0x00400000u : e == 255 ? 0x7fc00000u : e << 23);
  }
};

template <class Element>
struct Mx {
  static constexpr bool kLossy = true;
  static constexpr const char* kParameters = "";
  using Blocks = ScaledBlocks<Element, E8M0Scale<Element>, 32>;

  static CodecShape shape(const CodecParams&) { return {.block = 32}; }
  static uint32_t pack(const CodecShape&) { return 0; }
  static bool unpack(uint32_t, CodecShape& s) {
    s.block = 32;
    return true;
  }
  static std::string arguments(const CodecShape&) { return ""; }

  static size_t encoded_bytes(const CodecShape&, size_t count) { return Blocks::encoded_bytes(count); }
  static void encode(const CodecShape&, const float* x, size_t count, std::byte* out, float* loss) {
    Blocks::encode(x, count, out, loss);
  }
  static void decode(const CodecShape&, const std::byte* in, size_t count, float* out) {
    Blocks::template decode<false>(in, count, out);
  }
  static void decode_add(const CodecShape&, const std::byte* in, size_t count, float* acc) {
    Blocks::template decode<true>(in, count, acc);
  }
};

struct MxFp8E4M3 : Mx<E4M3> {
  static constexpr const char* kName = "mxfp8_e4m3";
};
struct MxFp8E5M2 : Mx<E5M2> {
  static constexpr const char* kName = "mxfp8_e5m2";
};
struct MxFp4 : Mx<E2M1> {
  static constexpr const char* kName = "mxfp4";
};

GW_CODEC(18, MxFp8E4M3)
GW_CODEC(19, MxFp8E5M2)
GW_CODEC(20, MxFp4)

}  // namespace gw::GW_ISA
