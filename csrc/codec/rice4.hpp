// rice4: entropy-coded 4-bit quantisation, 4.1 bits an element and 8.1 % error on N(0, 1): 0.45 bit above the Gaussian
// rate-distortion bound, which no code of fixed length per element comes near (int4 with Lloyd-Max levels: 0.66). The
// payload's size depends on the values; it is never above 6.1 bits an element.
//
// Even steps of 0.28 standard deviations of the block (256 elements); codes are folded to z = 0, 1, 2, 3, 4 for 0, -1, 1, -2,
// 2 and Rice-coded: the two lower bits of z as they are, the rest in unary (Rice 1979).
//
// Block of L elements: bf16 step d; a byte n, the length of the last part, 0 if all values decode to 0 or NaN and nothing
// follows; the two lower bits of each z as slices (slices.hpp); n bytes of unary codes: for each element z / 4 zero bits and
// a one, from the low bit of each byte up.
//   q8 = the codes of an int8 block; d = 0.28 sqrt(sum q8^2 / L) d8 in fp32, rounded to bf16 (0 if subnormal), doubled until
//   n <= 128; q = nearest-even(x / d), held to +-63; decoded value q d, exact.
//
// Values above 2^127 in magnitude may decode to Inf.
// Error bound of a finite block: |x - x'| <= 0.15 rms + 2^-7 max|x|; never more than |x|. (Half a step; sum |q| <= L / 0.28
// bounds the unary part by 256 + 521 bits, so that steps are not doubled; |q| <= sqrt(256) / 0.28 < 58.)
#pragma once
#include "codec/scale.hpp"
#include "codec/slices.hpp"

namespace gw::GW_ISA {

struct Rice4 {
  static constexpr const char* kName = "rice4";
  static constexpr const char* kParameters = "";
  static constexpr bool kLossy = true;
  static constexpr int kBlock = 256, kMostUnary = 128, kTop = 63, kMostZeros = kTop / 2;
  using Low = Slices<2, kBlock>;

  static CodecShape shape(const CodecParams&) { return {.block = kBlock}; }
  static uint32_t pack(const CodecShape&) { return 0; }
  static bool unpack(uint32_t, CodecShape& s) {
    s = {.block = kBlock};
    return true;
  }
  static std::string arguments(const CodecShape&) { return ""; }
  static size_t most_bytes(size_t n) {
    return 3 + sliced_bytes(2, kBlock, n) + min_of(size_t{kMostUnary}, 4 * n);
  }
  static size_t encoded_bytes(const CodecShape&, size_t count) {
    const size_t rest = count % kBlock;
    return count / kBlock * most_bytes(kBlock) + (rest ? most_bytes(rest) : 0);
  }

  static size_t encode(const CodecShape&, const float* x, size_t count, std::byte* out, float* loss) {
    const std::byte* start = out;
    for (size_t i = 0; i < count; i += kBlock) {
      const size_t n = min_of(count - i, size_t{kBlock});
      alignas(64) float v[kBlock] = {};
      __builtin_memcpy(v, x + i, n * sizeof(float));
      out = put_block(v, n, out, loss ? loss + i : nullptr);
    }
    return static_cast<size_t>(out - start);
  }
  static size_t decode(const CodecShape&, const std::byte* in, size_t bytes, size_t count, float* out) {
    return decode_any<false>(in, bytes, count, out);
  }
  static size_t decode_add(const CodecShape&, const std::byte* in, size_t bytes, size_t count, float* acc) {
    return decode_any<true>(in, bytes, count, acc);
  }

 private:
  // bf16 step of a block, as fp32.
  static GW_INLINE float step_of(const float* v, const Scale& s, size_t n) {
    int32_t squares = 0;
    for (int j = 0; j < kBlock; ++j) {
      const int32_t q = code_of<8>(v[j], s.inverse);
      squares += q * q;
    }
    const float rms = __builtin_sqrtf(static_cast<float>(squares) / static_cast<float>(n));
    return float_of(rounded_scale<0>(magnitude(0.28f * rms * s.d)));
  }

  static __attribute__((noinline)) std::byte* put_block(const float* v, size_t n, std::byte* out,
                                                        float* loss) {
    uint32_t stat = 0;
    for (int j = 0; j < kBlock; ++j) stat = max_of(stat, statistic(v[j]));
    const Scale s = scale_of<8>(stat);
    float d = s.bits == kNanScale ? s.d : step_of(v, s, n);
    uint8_t z[kBlock];
    uint32_t unary = 0;
    while (d > 0) {
      const float inverse = 1.0f / d;
      unary = 0;
      for (int j = 0; j < kBlock; ++j) {
        const int32_t q = max_of(-kTop, min_of(kTop, nearest_int(v[j] * inverse)));
        z[j] = static_cast<uint8_t>((q << 1) ^ (q >> 31));
        unary += z[j] >> 2;
      }
      if (unary + n <= 8 * kMostUnary) break;
      d *= 2;
    }
    put_u16(out, static_cast<uint16_t>(bits_of(d) >> 16));
    out[2] = std::byte{0};
    if (!(d > 0)) {
      const bool lost = s.bits == kNanScale;
      if (loss)
        for (size_t j = 0; j < n; ++j) loss[j] = lost ? 0.0f : v[j];
      return out + 3;
    }
    auto* to = reinterpret_cast<uint8_t*>(out + 3);
    uint8_t low[Low::kBytes];
    Low::pack(z, low);
    Low::shorten(low, n, to);
    to += sliced_bytes(2, kBlock, n);
    const size_t bytes = (unary + n + 7) / 8;
    out[2] = static_cast<std::byte>(bytes);
    __builtin_memset(to, 0, bytes);
    size_t bit = 0;
    for (size_t j = 0; j < n; ++j, ++bit) {
      bit += z[j] >> 2;
      to[bit / 8] = static_cast<uint8_t>(to[bit / 8] | 1u << bit % 8);
    }
    if (loss)
      for (size_t j = 0; j < n; ++j) loss[j] = finite_or_zero(v[j] - value(z[j]) * d);
    return reinterpret_cast<std::byte*>(to + bytes);
  }

  static GW_INLINE float value(uint32_t z) {
    return static_cast<float>(static_cast<int32_t>(z >> 1) ^ -static_cast<int32_t>(z & 1));
  }

  static size_t block_bytes(uint8_t unary, size_t n) {
    return unary == 0 ? 3 : 3 + sliced_bytes(2, kBlock, n) + unary;
  }

  // All sizes first: a refused payload leaves the output as it was.
  static size_t checked_bytes(const std::byte* in, size_t bytes, size_t count) {
    size_t at = 0;
    for (size_t i = 0; i < count; i += kBlock) {
      if (at + 3 > bytes) fail_truncated(at + 3, bytes);
      at += block_bytes(static_cast<uint8_t>(in[at + 2]), min_of(count - i, size_t{kBlock}));
      if (at > bytes) fail_truncated(at, bytes);
    }
    return at;
  }

  template <bool Add>
  static size_t decode_any(const std::byte* in, size_t bytes, size_t count, float* out) {
    const size_t used = checked_bytes(in, bytes, count);
    for (size_t i = 0; i < count; i += kBlock) {
      const size_t n = min_of(count - i, size_t{kBlock});
      float y[kBlock];
      get_block(in, n, y);
      in += block_bytes(static_cast<uint8_t>(in[2]), n);
      for (size_t j = 0; j < n; ++j) out[i + j] = Add ? out[i + j] + y[j] : y[j];
    }
    return used;
  }

  // Unary codes that end too early or run too long decode to some value.
  static __attribute__((noinline)) void get_block(const std::byte* in, size_t n, float* y) {
    const float d = scale_from(in);
    const size_t bytes = static_cast<uint8_t>(in[2]);
    if (bytes == 0) {
      for (size_t j = 0; j < n; ++j) y[j] = 0.0f * d;
      return;
    }
    const auto* from = reinterpret_cast<const uint8_t*>(in + 3);
    uint8_t low[Low::kBytes] = {}, z[kBlock];
    Low::widen_short(from, n, low);
    Low::unpack(low, z);
    from += sliced_bytes(2, kBlock, n);
    // Where the ones lie; a chain of one cheap step an element, as each is cleared without being looked at.
    uint16_t one[kBlock];
    size_t found = 0;
    for (size_t at = 0; at < bytes; at += 8) {
      uint64_t word = 0;
      __builtin_memcpy(&word, from + at, min_of(bytes - at, size_t{8}));
      for (; word && found < n; word &= word - 1)
        one[found++] = static_cast<uint16_t>(8 * at + static_cast<size_t>(__builtin_ctzll(word)));
    }
    for (; found < n; ++found) one[found] = static_cast<uint16_t>(found ? one[found - 1] + 1 : 0);
    z[0] = static_cast<uint8_t>(z[0] | min_of(int{one[0]}, kMostZeros) << 2);
    for (size_t j = 1; j < n; ++j)
      z[j] = static_cast<uint8_t>(z[j] | min_of(one[j] - one[j - 1] - 1, kMostZeros) << 2);
    for (size_t j = 0; j < n; ++j) y[j] = value(z[j]) * d;
  }
};

GW_CODEC(23, Rice4)

}  // namespace gw::GW_ISA
