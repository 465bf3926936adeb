// topk: of each block of 4096 values the k of largest magnitude travel, the rest are zeros on the other side and stay
// whole in the loss. Ties go to the lower index; NaN and Inf count as largest. k per block is fixed, so a frame's size
// is known beforehand.
//
// Selection, exact and free of sorting: the k-th largest of the maxima of 256 disjoint groups is a lower bound of the
// threshold, and a good one (about 1.1 k candidates for random data at 1 %); a bisection among the candidates finds
// it, and it begins where the last block's ended. Cost: two vectorised reads of the block in the nearest cache.
//
// Block: [k indices of 12 bits, packed in threes of bytes][k values: fp32, bf16, or an int8 scale and codes].
//
// Error bound: |x - x'|^2 <= (1 - k/4096) |x|^2 for fp32 values of a full block of finite values; a coded value adds
// its own error: 2^-8 |x| (bf16), max|x| (2^-7 + 2^-8) (int8).
#pragma once
#include "codec/quant.hpp"
#include "codec/select.hpp"

namespace gw::GW_ISA {

enum ValueKind : uint32_t { kValuesBf16 = 0, kValuesFp32 = 1, kValuesInt8 = 2 };

struct TopK {
  static constexpr const char* kName = "topk";
  static constexpr bool kLossy = true;
  static constexpr const char* kParameters = "block, ratio, values";
  static constexpr uint32_t kBlock = 4096;

  static CodecShape shape(const CodecParams& p) {
    if (p.block != 0 && p.block != static_cast<int>(kBlock))
      fail_argument("codec topk: block is fixed at 4096, got " + std::to_string(p.block));
    const double ratio = p.ratio == 0 ? 0.01 : p.ratio;
    if (!(ratio > 0 && ratio <= 1))
      fail_argument("codec topk: ratio must be above 0 and at most 1, got " + std::to_string(p.ratio));
    CodecShape s{.block = kBlock};
    s.k = max_of(uint32_t{1}, static_cast<uint32_t>(ratio * kBlock + 0.5));
    if (p.values.empty() || p.values == "bf16")
      s.values = kValuesBf16;
    else if (p.values == "fp32")
      s.values = kValuesFp32;
    else if (p.values == "int8")
      s.values = kValuesInt8;
    else
      fail_argument("codec topk: values must be \"bf16\", \"fp32\" or \"int8\", got \"" + p.values + "\"");
    return s;
  }
  static uint32_t pack(const CodecShape& s) { return s.k | (s.values << 16); }
  static bool unpack(uint32_t wire, CodecShape& s) {
    s = {.block = kBlock, .k = wire & 0xffffu, .values = wire >> 16};
    return s.k >= 1 && s.k <= kBlock && s.values <= kValuesInt8;
  }
  // Four decimals of the ratio give k back: the text can be parsed again.
  static std::string arguments(const CodecShape& s) {
    static constexpr const char* kKinds[] = {"bf16", "fp32", "int8"};
    std::string ratio = std::to_string(static_cast<double>(s.k) / kBlock).substr(0, 6);
    while (ratio.size() > 3 && ratio.back() == '0') ratio.pop_back();
    return "ratio=" + ratio + ", values=" + kKinds[s.values];
  }

  // A partial block keeps the same share, rounded up.
  static size_t kept(const CodecShape& s, size_t length) {
    return length == kBlock ? s.k : (s.k * length + kBlock - 1) / kBlock;
  }
  static size_t index_bytes(size_t k) { return (3 * k + 1) / 2; }
  static size_t value_bytes(const CodecShape& s, size_t k) {
    return s.values == kValuesFp32 ? 4 * k : s.values == kValuesBf16 ? 2 * k : 2 + k;
  }
  static size_t block_bytes(const CodecShape& s, size_t length) {
    const size_t k = kept(s, length);
    return index_bytes(k) + value_bytes(s, k);
  }
  static size_t encoded_bytes(const CodecShape& s, size_t count) {
    const size_t rest = count % kBlock;
    return count / kBlock * block_bytes(s, kBlock) + (rest ? block_bytes(s, rest) : 0);
  }

  static void encode(const CodecShape& s, const float* x, size_t count, std::byte* out, float* loss) {
    uint32_t guess = 0x3f800000u;
    for (size_t i = 0; i < count; i += kBlock) {
      const size_t length = min_of(size_t{kBlock}, count - i), k = kept(s, length);
      uint32_t indices[kBlock + kFindSlack];
      float sent[kBlock], decoded[kBlock];
      choose(x + i, length, k, indices, guess);
      for (size_t j = 0; j < k; ++j) sent[j] = x[i + indices[j]];
      put_indices(indices, k, out);
      put_values(s, sent, k, out + index_bytes(k));
      out += index_bytes(k);
      if (loss) {
        get_values(s, out, k, decoded);
        keep_finite(x + i, length, loss + i);
        for (size_t j = 0; j < k; ++j) loss[i + indices[j]] = finite_or_zero(sent[j] - decoded[j]);
      }
      out += value_bytes(s, k);
    }
  }
  static void decode(const CodecShape& s, const std::byte* in, size_t count, float* out) {
    check_indices(s, in, count);
    if (count) __builtin_memset(out, 0, count * sizeof(float));
    scatter<false>(s, in, count, out);
  }
  static void decode_add(const CodecShape& s, const std::byte* in, size_t count, float* acc) {
    check_indices(s, in, count);  // all of them first: a refused frame leaves acc as it was
    scatter<true>(s, in, count, acc);
  }

 private:
  // Of every kRows vectors of 16 elements the largest in each place: 1 / kRows as many maxima of disjoint groups.
  static constexpr size_t kRows = 16;
  static size_t group_maxima(const float* x, size_t length, uint32_t* maxima) {
    size_t n = 0;
    for (size_t i = 0; i + 16 * kRows <= length; i += 16 * kRows, n += 16) {
      int32_t most[16] = {};  // signed: SSE2 has no other comparison
      for (size_t row = 0; row < kRows; ++row)
        for (size_t j = 0; j < 16; ++j)
          most[j] = max_of(most[j], static_cast<int32_t>(magnitude(x[i + 16 * row + j])));
      __builtin_memcpy(maxima + n, most, sizeof(most));
    }
    return n;
  }

  // The k chosen of x, ascending; room for length + kFindSlack. `guess`: of the threshold, the last block's; it changes
  // how long the search takes and never what it finds.
  static void choose(const float* x, size_t length, size_t k, uint32_t* indices, uint32_t& guess) {
    uint32_t values[kBlock];
    uint32_t bound = 0;
    const size_t groups = 2 * k <= length / kRows ? group_maxima(x, length, values) : 0;
    if (groups >= k) {
      bound = cut_at(values, groups, k, k / 8 + 2, guess);
    } else {
      GW_IVDEP
      for (size_t j = 0; j < length; ++j) values[j] = magnitude(x[j]);
      bound = cut_at(values, length, k, 0, guess);
    }
    guess = bound;
    const size_t candidates = find_at_least(x, length, bound, indices);
    if (candidates == k) return;
    for (size_t j = 0; j < candidates; ++j) values[j] = magnitude(x[indices[j]]);
    const uint32_t threshold = cut_at(values, candidates, k, 0, bound);
    const size_t reach = count_at_least(values, candidates, threshold);
    // more than k reach it only if some are its ties, of which the last ones stay
    size_t ties = reach == k ? k : k - count_above(values, candidates, threshold);
    size_t n = 0;
    for (size_t j = 0; n < k; ++j) {  // ends: k candidates qualify
      const bool tie = reach != k && values[j] == threshold;
      const bool keep = values[j] >= threshold && (!tie || ties > 0);
      ties -= tie && keep;
      indices[n] = indices[j];
      n += keep;
    }
  }

  // What is not sent stays in the loss, but never a NaN or Inf.
  static void keep_finite(const float* x, size_t length, float* loss) {
    GW_IVDEP
    for (size_t j = 0; j < length; ++j) loss[j] = finite_or_zero(x[j]);
  }

  static void put_indices(const uint32_t* indices, size_t k, std::byte* out) {
    size_t j = 0;
    for (; j + 2 <= k; j += 2, out += 3) {
      const uint32_t pair = indices[j] | (indices[j + 1] << 12);
      __builtin_memcpy(out, &pair, 3);
    }
    if (j < k) put_u16(out, static_cast<uint16_t>(indices[j]));
  }
  static GW_INLINE uint32_t get_index(const std::byte* in, size_t j) {
    const uint32_t u = get_u16(in + 3 * j / 2);
    return j % 2 ? u >> 4 : u & 0xfffu;
  }

  static void put_values(const CodecShape& s, const float* v, size_t k, std::byte* out) {
    if (s.values == kValuesFp32) {
      __builtin_memcpy(out, v, 4 * k);
    } else if (s.values == kValuesBf16) {
      for (size_t j = 0; j < k; ++j) put_u16(out + 2 * j, narrow_to(v[j], bf16_t{}).bits);
    } else {
      uint32_t stat = 0;
      for (size_t j = 0; j < k; ++j) stat = max_of(stat, statistic(v[j]));
      const Scale scale = scale_of<8>(stat);
      put_u16(out, scale.bits);
      const bool lost = scale.bits == kNanScale;
      for (size_t j = 0; j < k; ++j) {
        const auto q = lost ? 0 : static_cast<int32_t>(code_of<8>(v[j], scale.inverse));
        out[2 + j] = static_cast<std::byte>(static_cast<uint8_t>(q));
      }
    }
  }
  static void get_values(const CodecShape& s, const std::byte* in, size_t k, float* v) {
    if (s.values == kValuesFp32) {
      __builtin_memcpy(v, in, 4 * k);
    } else if (s.values == kValuesBf16) {
      for (size_t j = 0; j < k; ++j) v[j] = widen(bf16_t{get_u16(in + 2 * j)});
    } else {
      const float d = scale_from(in);
      for (size_t j = 0; j < k; ++j) v[j] = static_cast<float>(static_cast<int8_t>(in[2 + j])) * d;
    }
  }

  static void check_indices(const CodecShape& s, const std::byte* in, size_t count) {
    for (size_t i = 0; i < count; i += kBlock) {
      const size_t length = min_of(size_t{kBlock}, count - i), k = kept(s, length);
      uint32_t next = 0;  // smallest index allowed
      bool bad = false;
      for (size_t j = 0; j < k; ++j) {
        const uint32_t index = get_index(in, j);
        bad |= index < next || index >= length;
        next = index + 1;
      }
      if (bad) fail_payload("topk indices must increase strictly and stay inside their block of values", i);
      // the spare half byte of an odd k would be a second spelling of the same frame
      if (k % 2 && get_u16(in + 3 * (k - 1) / 2) >> 12)
        fail_payload("the padding after an odd number of topk indices must be zero", i);
      in += index_bytes(k) + value_bytes(s, k);
    }
  }
  template <bool Add>
  static void scatter(const CodecShape& s, const std::byte* in, size_t count, float* out) {
    for (size_t i = 0; i < count; i += kBlock) {
      const size_t length = min_of(size_t{kBlock}, count - i), k = kept(s, length);
      float v[kBlock];
      get_values(s, in + index_bytes(k), k, v);
      for (size_t j = 0; j < k; ++j) {
        float& to = out[i + get_index(in, j)];
        to = Add ? to + v[j] : v[j];
      }
      in += index_bytes(k) + value_bytes(s, k);
    }
  }
};

GW_CODEC(5, TopK)

}  // namespace gw::GW_ISA
