// fp8_e4m3 and fp8_e5m2: 8-bit floats, cast as they are or under a scale per block.
//
// Without block: a plain cast, 8 bits an element, the same bytes as torch's x.to(torch.float8_e4m3fn /
// float8_e5m2). A finite value that is too large is held to 448 (E4M3: saturating, the loss keeps the rest)
// or becomes Inf (E5M2, from 61440). NaN stays NaN. Inf stays Inf (E5M2) or becomes NaN (E4M3 has no Inf;
// torch makes it 448, which would hide it). Error bound for |x| up to the largest code: 2^-4 |x| + 2^-10
// (E4M3), 2^-3 |x| + 2^-17 (E5M2), half a unit in the last place; the second term is half the smallest
// subnormal. Never more than |x|: a contraction, also where values are held.
//
// block = 32, 64, 128 or 256: values over a bf16 scale d = max|x| / 448 (E4M3) or / 57344 (E5M2), 8 +
// 16/block bits an element: any range fits. Rounding d to nearest lets max|x| / d exceed the largest code by
// 2^-8 of it, less than half a step: it still rounds to that code. |d| below the smallest normal fp32 becomes
// 0: the block decodes to zeros and the loss keeps x. Error bound of a block: 2^-4 |x| + 2^-18 max|x| (E4M3),
// 2^-3 |x| + 2^-32 max|x| (E5M2), + 2^-117 where d = 0 (E4M3; E5M2 2^-110). Never more than |x|, up to a
// rounding of fp32: a contraction. On N(0,1) the relative error is 2.6 % (E4M3) at any block: int8 is 12 dB
// better at equal bytes. fp8 keeps its relative error over 18 (E4M3) or 32 (E5M2) binades, which int8 does
// not.
#pragma once
#include <string>

#include "codec/cast.hpp"
#include "codec/scaled.hpp"

namespace gw::GW_ISA {

template <class Element>
struct Bf16Scale {
  static constexpr int kBytes = 2;
  static constexpr uint32_t kNan = 0x7fc0;

  static GW_INLINE BlockScale of(uint32_t largest) {
    const uint32_t exact = bits_of(float_of(largest) / Element::kLargest);
    if (exact < 0x00800000u) return {0, 0.0f, 0.0f};
    // the largest bf16 that times 1.75 * 2^kLargestExponent, the largest code, is finite
    constexpr uint32_t kTop = (static_cast<uint32_t>(254 - Element::kLargestExponent) << 23) | (18u << 16);
    const uint32_t bits = min_of((exact + 0x7fffu + ((exact >> 16) & 1u)) & 0xffff0000u, kTop);
    return {bits >> 16, float_of(bits), 1.0f / float_of(bits)};
  }
  static GW_INLINE void put(std::byte* p, uint32_t bits) { put_u16(p, static_cast<uint16_t>(bits)); }
  static GW_INLINE float get(const std::byte* p) { return float_of(uint32_t{get_u16(p)} << 16); }
};

template <class Element, class Byte>
struct Fp8 {
  static constexpr bool kLossy = true;
  static constexpr const char* kParameters = "block";

  template <int B>
  using Blocks = ScaledBlocks<Element, Bf16Scale<Element>, B>;

  static bool allowed(uint32_t block) { return block == 32 || block == 64 || block == 128 || block == 256; }
  static CodecShape checked_shape(const CodecParams& p, const char* name) {
    if (p.block != 0 && (p.block < 0 || !allowed(static_cast<uint32_t>(p.block))))
      fail_argument(std::string("codec ") + name +
                    ": block must be 32, 64, 128 or 256, or absent for a plain cast, got " +
                    std::to_string(p.block));
    return {.block = p.block == 0 ? 1 : static_cast<uint32_t>(p.block)};
  }
  // A plain cast has blocks of one element and params 0.
  static uint32_t pack(const CodecShape& s) { return s.block == 1 ? 0 : s.block; }
  static bool unpack(uint32_t wire, CodecShape& s) {
    s.block = wire == 0 ? 1 : wire;
    return wire == 0 || allowed(wire);
  }
  static std::string arguments(const CodecShape& s) {
    return s.block == 1 ? "" : "block=" + std::to_string(s.block);
  }

  // fn(ScaledBlocks of that size), or plain() for block 1.
  template <class Plain, class Scaled>
  static GW_INLINE auto choose(const CodecShape& s, Plain plain, Scaled scaled) {
    if (s.block == 1) return plain();
    if (s.block == 32) return scaled(Blocks<32>{});
    if (s.block == 64) return scaled(Blocks<64>{});
    if (s.block == 128) return scaled(Blocks<128>{});
    return scaled(Blocks<256>{});
  }

  static size_t encoded_bytes(const CodecShape& s, size_t count) {
    return choose(s, [&] { return count; }, [&](auto b) { return decltype(b)::encoded_bytes(count); });
  }
  static void encode(const CodecShape& s, const float* x, size_t count, std::byte* out, float* loss) {
    choose(
        s, [&] { Cast<Byte>::encode(s, x, count, out, loss); },
        [&](auto b) { decltype(b)::encode(x, count, out, loss); });
  }
  static void decode(const CodecShape& s, const std::byte* in, size_t count, float* out) {
    choose(
        s, [&] { Cast<Byte>::decode(s, in, count, out); },
        [&](auto b) { decltype(b)::template decode<false>(in, count, out); });
  }
  static void decode_add(const CodecShape& s, const std::byte* in, size_t count, float* acc) {
    choose(
        s, [&] { Cast<Byte>::decode_add(s, in, count, acc); },
        [&](auto b) { decltype(b)::template decode<true>(in, count, acc); });
  }
};

struct Fp8E4M3 : Fp8<E4M3, e4m3_t> {
  static constexpr const char* kName = "fp8_e4m3";
  static CodecShape shape(const CodecParams& p) { return checked_shape(p, kName); }
};
struct Fp8E5M2 : Fp8<E5M2, e5m2_t> {
  static constexpr const char* kName = "fp8_e5m2";
  static CodecShape shape(const CodecParams& p) { return checked_shape(p, kName); }
};

GW_CODEC(16, Fp8E4M3)
GW_CODEC(17, Fp8E5M2)

}  // namespace gw::GW_ISA
