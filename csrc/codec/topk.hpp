// topk: of each block of 4096 values the k of largest magnitude travel, the rest are zeros on the other side and stay
// whole in the loss. Ties go to the lower index; NaN and Inf count as largest. k per block is fixed, so a frame's size
// is known beforehand.
//
// Selection, exact and free of sorting: the k-th largest of the maxima of 256 disjoint groups is a lower bound of the
// threshold, and a good one (about 1.1 k candidates for random data at 1 %); a bisection among the candidates finds
// it, and it begins where the last block's ended. Cost: two vectorised reads of the block in the nearest cache.
//
// Block: [the k indices, elias_fano.hpp][the k values, sparse_values.hpp]. At 1 % that is 8.6 bits an index.
//
// Error bound: |x - x'|^2 <= (1 - k/4096) |x|^2 for fp32 values of a full block of finite values; a coded value adds
// its own error: 2^-8 |x| (bf16), max|x| (2^-7 + 2^-8) (int8), max|x| (2^-3 + 2^-8) (int4).
#pragma once
#include "codec/elias_fano.hpp"
#include "codec/select.hpp"
#include "codec/sparse_values.hpp"

namespace gw::GW_ISA {

struct TopK {
  static constexpr const char* kName = "topk";
  static constexpr bool kLossy = true;
  static constexpr const char* kParameters = "block, ratio, values";
  static constexpr uint32_t kBlock = kSparseBlock;

  static CodecShape shape(const CodecParams& p) {
    if (p.block != 0 && p.block != static_cast<int>(kBlock))
      fail_argument("codec topk: block is fixed at 4096, got " + std::to_string(p.block));
    const double ratio = p.ratio == 0 ? 0.01 : p.ratio;
    if (!(ratio > 0 && ratio <= 1))
      fail_argument("codec topk: ratio must be above 0 and at most 1, got " + std::to_string(p.ratio));
    CodecShape s{.block = kBlock};
    s.k = max_of(uint32_t{1}, static_cast<uint32_t>(ratio * kBlock + 0.5));
    s.values = value_kind(p.values, kName);
    return s;
  }
  static uint32_t pack(const CodecShape& s) { return s.k | (s.values << 16); }
  static bool unpack(uint32_t wire, CodecShape& s) {
    s = {.block = kBlock, .k = wire & 0xffffu, .values = wire >> 16};
    return s.k >= 1 && s.k <= kBlock && s.values <= kValuesInt4;
  }
  // Four decimals of the ratio give k back: the text can be parsed again.
  static std::string arguments(const CodecShape& s) {
    std::string ratio = std::to_string(static_cast<double>(s.k) / kBlock).substr(0, 6);
    while (ratio.size() > 3 && ratio.back() == '0') ratio.pop_back();
    return "ratio=" + ratio + ", values=" + kValueNames[s.values];
  }

  static size_t block_bytes(const CodecShape& s, size_t length) {
    const size_t k = kept_of(s.k, length);
    return index_code(k, length).bytes + value_bytes(s.values, k);
  }
  static size_t encoded_bytes(const CodecShape& s, size_t count) {
    const size_t rest = count % kBlock;
    return count / kBlock * block_bytes(s, kBlock) + (rest ? block_bytes(s, rest) : 0);
  }

  static void encode(const CodecShape& s, const float* x, size_t count, std::byte* out, float* loss) {
    uint32_t guess = 0x3f800000u;
    uint32_t indices[kBlock + kFindSlack];
    float sent[kBlock], decoded[kBlock];
    Blocks blocks(s);
    for (size_t i = 0; i < count; i += kBlock) {
      const size_t length = min_of(size_t{kBlock}, count - i);
      const auto& [k, code] = blocks.of(length);
      choose(x + i, length, k, indices, guess);
      for (size_t j = 0; j < k; ++j) sent[j] = x[i + indices[j]];
      put_indices(code, indices, k, out);
      out += code.bytes;
      put_values(s.values, sent, k, out);
      if (loss) {
        get_values(s.values, out, k, decoded);
        keep_finite(x + i, length, loss + i);
        for (size_t j = 0; j < k; ++j) loss[i + indices[j]] = finite_or_zero(sent[j] - decoded[j]);
      }
      out += value_bytes(s.values, k);
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
  // Kept elements and index code of a full block, and of a last one.
  struct Shape {
    size_t k;
    IndexCode code;
  };
  class Blocks {
   public:
    explicit Blocks(const CodecShape& s) : s_(s), full_(made(kBlock)), last_(full_) {}
    const Shape& of(size_t length) {
      if (length == kBlock) return full_;
      return last_ = made(length);
    }

   private:
    Shape made(size_t length) const {
      const size_t k = kept_of(s_.k, length);
      return {k, index_code(k, length)};
    }
    const CodecShape& s_;
    Shape full_, last_;
  };

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

  static void check_indices(const CodecShape& s, const std::byte* in, size_t count) {
    uint32_t indices[kBlock];
    Blocks blocks(s);
    for (size_t i = 0; i < count; i += kBlock) {
      const size_t length = min_of(size_t{kBlock}, count - i);
      const auto& [k, code] = blocks.of(length);
      if (!get_indices(code, in, k, length, indices))
        fail_payload("topk indices must increase strictly, stay inside their block and be padded with 0", i);
      in += code.bytes + value_bytes(s.values, k);
    }
  }
  template <bool Add>
  static void scatter(const CodecShape& s, const std::byte* in, size_t count, float* out) {
    uint32_t indices[kBlock];
    float v[kBlock];
    Blocks blocks(s);
    for (size_t i = 0; i < count; i += kBlock) {
      const auto& [k, code] = blocks.of(min_of(size_t{kBlock}, count - i));
      if (!get_indices(code, in, k, kBlock, indices)) return;  // checked before
      get_values(s.values, in + code.bytes, k, v);
      for (size_t j = 0; j < k; ++j) {
        float& to = out[i + indices[j]];
        to = Add ? to + v[j] : v[j];
      }
      in += code.bytes + value_bytes(s.values, k);
    }
  }
};

GW_CODEC(24, TopK)

}  // namespace gw::GW_ISA
