// lossless: fp32 values bit for bit, in fewer bytes. Gradients use few of their 256 exponents, so the
// exponents of a block are packed into w bits each, where w is the cheapest of 0 to 8; and values that came
// from bf16 or fp16, or were otherwise rounded, do not send the low mantissa bits that are zero in the whole
// block.
//
//   Block of L <= 512 values: [head: 4 bytes][upper: sign and 7 mantissa bits, L bytes][low mantissa bits][codes][escapes]
//
// code = largest exponent - exponent (planes.hpp). 2^w - 1 is an escape: the exponent follows in the list of
// escapes, so that zeros and outliers among others do not cost the block its width. A block whose values are
// all the same is that value; one that would not shrink travels as it is. The size depends on the data: 4 + 4
// L bytes at most.
//
// N(0,1): 27.3 bits an element of fp32; 11.3 if the values are those of bf16. (The entropy of the exponent is
// 2.6 bits, of which a fixed width with escapes takes 3.3; mantissas are noise.) Error bound: 0; NaN
// payloads, -0 and denormals too. A payload is refused before anything is written if the sizes in its heads
// do not add up.
#pragma once
#include <string>

#include "codec/codec_entry.hpp"
#include "codec/planes.hpp"

namespace gw::GW_ISA {

struct Lossless {
  static constexpr const char* kName = "lossless";
  static constexpr bool kLossy = false;
  static constexpr const char* kParameters = "";
  static constexpr uint32_t kBlock = 512;

  static CodecShape shape(const CodecParams&) { return {.block = kBlock}; }
  static uint32_t pack(const CodecShape&) { return 0; }
  static bool unpack(uint32_t, CodecShape& s) {
    s.block = kBlock;
    return true;
  }
  static std::string arguments(const CodecShape&) { return ""; }
  static size_t encoded_bytes(const CodecShape&, size_t count) {
    return 4 * count + kHead * ((count + kBlock - 1) / kBlock);
  }

  static size_t encode(const CodecShape&, const float* x, size_t count, std::byte* out, float* loss) {
    const std::byte* start = out;
    size_t at = 0;
    // the constant lets the compiler unroll the loops of whole blocks
    for (; at + kBlock <= count; at += kBlock) out = encode_block(x + at, kBlock, out);
    if (at < count) out = encode_block(x + at, count - at, out);
    if (loss && count) __builtin_memset(loss, 0, count * sizeof(float));
    return static_cast<size_t>(out - start);
  }
  static size_t decode(const CodecShape&, const std::byte* in, size_t bytes, size_t count, float* out) {
    return decode_all<false>(in, bytes, count, out);
  }
  static size_t decode_add(const CodecShape&, const std::byte* in, size_t bytes, size_t count, float* acc) {
    return decode_all<true>(in, bytes, count, acc);
  }

 private:
  static constexpr size_t kHead = 4, kRoom = kBlock + 64;
  enum : uint32_t { kRaw = 0xff, kConstant = 0xfe, kAllLow = 9 };

  struct Head {
    uint32_t form;     // kRaw, kConstant, or width | low << 4
    uint32_t largest;  // exponent
    uint32_t escapes;
    uint32_t width() const { return form & 15u; }
    uint32_t low() const { return form >> 4; }  // low mantissa bits sent: 0 to 8, or kAllLow: all 16
  };
  static GW_INLINE void put_head(std::byte* out, const Head& h) {
    out[0] = static_cast<std::byte>(h.form);
    out[1] = static_cast<std::byte>(h.largest);
    put_u16(out + 2, static_cast<uint16_t>(h.escapes));
  }
  static GW_INLINE Head get_head(const std::byte* in) {
    return {static_cast<uint32_t>(in[0]), static_cast<uint32_t>(in[1]), get_u16(in + 2)};
  }
  static GW_INLINE size_t low_bytes(uint32_t low, size_t n) {
    return low == kAllLow ? 2 * n : packed_bytes(n, low);
  }
  static GW_INLINE size_t block_bytes(const Head& h, size_t n) {
    if (h.form == kRaw) return kHead + 4 * n;
    if (h.form == kConstant) return kHead + 4;
    return kHead + n + low_bytes(h.low(), n) + packed_bytes(n, h.width()) + h.escapes;
  }

  // How many of n codes are at least `least`; the codes up to the next multiple of 64 are 0, and least is
  // not.
  static GW_INLINE uint32_t count_at_least(const uint8_t* codes, size_t n, uint8_t least) {
    typedef uint8_t Bytes __attribute__((vector_size(64), aligned(1), may_alias));
    typedef uint64_t Words __attribute__((vector_size(64)));
    Bytes column = {};
    for (size_t i = 0; i < n; i += 64) column -= (*reinterpret_cast<const Bytes*>(codes + i) >= least);
    const auto words = __builtin_bit_cast(Words, column);  // bytes of at most kRoom / 64
    uint64_t sum = 0;
    for (int i = 0; i < 8; ++i) sum += words[i];
    sum = (sum & 0x00ff00ff00ff00ffu) + ((sum >> 8) & 0x00ff00ff00ff00ffu);
    return static_cast<uint32_t>((sum * 0x0001000100010001u) >> 48);
  }

  // The cheapest width for exponents that far below the largest, and how many escapes it needs: the first
  // that needs none, or one that is narrower.
  static GW_INLINE void choose_width(const uint8_t* below, size_t n, Head& h) {
    uint8_t deepest = 0;
    for (size_t j = 0; j < n; ++j) deepest = max_of(deepest, below[j]);
    uint32_t width = deepest == 0 ? 0 : deepest >= 127 ? 8 : 1;
    while (width > 0 && width < 8 && deepest >= (1u << width) - 1) ++width;
    h.form = width;
    h.escapes = 0;
    size_t cost = packed_bytes(n, width);
    while (width > 1) {
      --width;
      const uint32_t escapes = count_at_least(below, n, static_cast<uint8_t>((1u << width) - 1));
      if (escapes >= cost) return;  // and a narrower width has more of them
      const size_t c = packed_bytes(n, width) + escapes;
      if (c > cost) continue;
      cost = c;
      h.form = width;
      h.escapes = escapes;
    }
  }

  // fn(j) for each j < n with codes[j] >= least, ascending. codes has room for 64 more.
  template <class Fn>
  static GW_INLINE void for_each_at_least(const uint8_t* codes, size_t n, uint8_t least, Fn fn) {
    uint8_t hit[kRoom];
    for (size_t j = 0; j < n; ++j) hit[j] = codes[j] >= least;
    for (size_t j = n; j < min_of(n + 64, kRoom); ++j) hit[j] = 0;
    for (size_t j = 0; j < n; j += 64) {
      uint64_t ones = 0;  // one bit for each byte, which is 0 or 1
      for (size_t part = 0; part < 8; ++part) {
        uint64_t eight;
        __builtin_memcpy(&eight, hit + j + 8 * part, 8);
        ones |= ((eight * 0x0102040810204080u) >> 56) << (8 * part);
      }
      for (; ones; ones &= ones - 1) fn(j + static_cast<size_t>(__builtin_ctzll(ones)));
    }
  }

  static GW_INLINE std::byte* encode_block(const float* x, size_t n, std::byte* out) {
    uint32_t any = 0, all = ~0u, largest = 0;
    for (size_t j = 0; j < n; ++j) {
      const uint32_t u = bits_of(x[j]);
      any |= u;
      all &= u;
      largest = max_of(largest, u & kInfBits);
    }
    if (any == all) {
      put_head(out, {kConstant, 0, 0});
      __builtin_memcpy(out + kHead, x, 4);
      return out + kHead + 4;
    }
    largest >>= 23;
    uint8_t upper[kRoom], below[kRoom];
    for (size_t j = 0; j < n; ++j) {
      const uint32_t u = bits_of(x[j]);
      upper[j] = static_cast<uint8_t>(((u >> 16) & 0x7fu) | ((u >> 24) & 0x80u));
      below[j] = static_cast<uint8_t>(largest - ((u >> 23) & 0xffu));
    }
    for (size_t j = n; j < min_of(n + 64, kRoom); ++j) below[j] = 0;
    Head h{0, largest, 0};
    choose_width(below, n, h);
    const uint32_t unused = static_cast<uint32_t>(__builtin_ctz(any | 0x10000u));
    const uint32_t width = h.form, low = unused >= 8 ? 16 - unused : uint32_t{kAllLow};
    h.form |= low << 4;
    if (block_bytes(h, n) >= kHead + 4 * n) {
      put_head(out, {kRaw, 0, 0});
      __builtin_memcpy(out + kHead, x, 4 * n);
      return out + kHead + 4 * n;
    }

    put_head(out, h);
    __builtin_memcpy(out + kHead, upper, n);
    out = put_low(x, n, low, out + kHead + n);
    std::byte* escapes = out + packed_bytes(n, width);
    if (h.escapes) {
      const auto escape = static_cast<uint8_t>((1u << width) - 1);
      size_t k = 0;
      for_each_at_least(below, n, escape,
                        [&](size_t j) { escapes[k++] = static_cast<std::byte>(largest - below[j]); });
      for (size_t j = 0; j < n; ++j) below[j] = min_of(below[j], escape);
    }
    put_packed(below, n, width, out);
    return escapes + h.escapes;
  }

  static GW_INLINE std::byte* put_low(const float* x, size_t n, uint32_t low, std::byte* out) {
    if (low == kAllLow) {
      auto* to = reinterpret_cast<Any<uint16_t>*>(out);
      for (size_t j = 0; j < n; ++j) to[j].value = static_cast<uint16_t>(bits_of(x[j]));
      return out + 2 * n;
    }
    if (low == 0) return out;
    uint8_t codes[kRoom];
    for (size_t j = 0; j < n; ++j) codes[j] = static_cast<uint8_t>((bits_of(x[j]) & 0xffffu) >> (16 - low));
    for (size_t j = n; j < n + 8; ++j) codes[j] = 0;
    return put_packed(codes, n, low, out);
  }

  // Adds up the sizes that the heads give, against the bytes that are there; nothing else of a payload can
  // mislead.
  static size_t checked_bytes(const std::byte* in, size_t bytes, size_t count) {
    size_t used = 0;
    for (size_t at = 0; at < count; at += kBlock) {
      const size_t n = min_of(size_t{kBlock}, count - at);
      if (bytes - used < kHead) fail_truncated(used + kHead, bytes);
      const Head h = get_head(in + used);
      const bool whole = h.form == kRaw || h.form == kConstant;
      if (!whole && (h.width() > 8 || h.low() > kAllLow))
        fail_payload("the head of a lossless block names a form that does not exist", at);
      const bool none = whole || h.width() == 0 || h.width() == 8;
      if (h.escapes > (none ? 0 : n) || (whole && h.largest))
        fail_payload("the head of a lossless block has escapes that its form does not allow", at);
      const size_t needed = block_bytes(h, n);
      if (bytes - used < needed) fail_truncated(used + needed, bytes);
      used += needed;
    }
    return used;
  }

  template <bool Add>
  static size_t decode_all(const std::byte* in, size_t bytes, size_t count, float* out) {
    const size_t used = checked_bytes(in, bytes, count);
    size_t at = 0;
    for (; at + kBlock <= count; at += kBlock) in = decode_block<Add>(in, kBlock, out + at);
    if (at < count) decode_block<Add>(in, count - at, out + at);
    return used;
  }

  template <bool Add>
  static GW_INLINE void put(float* out, size_t j, uint32_t bits) {
    out[j] = Add ? out[j] + float_of(bits) : float_of(bits);
  }

  template <bool Add>
  static GW_INLINE const std::byte* decode_block(const std::byte* in, size_t n, float* out) {
    const Head h = get_head(in);
    in += kHead;
    if (h.form == kRaw) {
      const auto* from = reinterpret_cast<const Any<uint32_t>*>(in);
      GW_IVDEP
      for (size_t j = 0; j < n; ++j) put<Add>(out, j, from[j].value);
      return in + 4 * n;
    }
    if (h.form == kConstant) {
      const uint32_t u = reinterpret_cast<const Any<uint32_t>*>(in)->value;
      GW_IVDEP
      for (size_t j = 0; j < n; ++j) put<Add>(out, j, u);
      return in + 4;
    }
    const auto* upper = reinterpret_cast<const uint8_t*>(in);
    const std::byte* low_at = in + n;
    const std::byte* codes_at = low_at + low_bytes(h.low(), n);
    uint8_t codes[kRoom] = {}, exponent[kRoom];
    const std::byte* escapes = get_packed(codes_at, n, h.width(), codes);
    for (size_t j = 0; j < n; ++j) exponent[j] = static_cast<uint8_t>(h.largest - codes[j]);
    if (h.escapes) {
      // a payload may hold more escape codes than escapes: those keep the exponent that their code stands for
      size_t k = 0;
      for_each_at_least(codes, n, static_cast<uint8_t>((1u << h.width()) - 1), [&](size_t j) {
        if (k < h.escapes) exponent[j] = static_cast<uint8_t>(escapes[k++]);
      });
    }
    const auto whole = [&](size_t j, uint32_t low) {
      const uint32_t top = upper[j];
      put<Add>(out, j, low | ((top & 0x7fu) << 16) | ((top & 0x80u) << 24) | (uint32_t{exponent[j]} << 23));
    };
    if (h.low() == kAllLow) {
      const auto* from = reinterpret_cast<const Any<uint16_t>*>(low_at);
      GW_IVDEP
      for (size_t j = 0; j < n; ++j) whole(j, from[j].value);
    } else if (h.low() == 0) {
      GW_IVDEP
      for (size_t j = 0; j < n; ++j) whole(j, 0);
    } else {
      uint8_t low[kRoom];
      get_packed(low_at, n, h.low(), low);
      const uint32_t shift = 16 - h.low();
      GW_IVDEP
      for (size_t j = 0; j < n; ++j) whole(j, uint32_t{low[j]} << shift);
    }
    return escapes + h.escapes;
  }
};

GW_CODEC(22, Lossless)

}  // namespace gw::GW_ISA
