// topk (codec/topk.hpp): of each block of 4096 values the k of largest magnitude.
//
// Selection, as exact as the CPU's and without a sort: the k-th largest of the threads' own maxima is a lower bound of the
// threshold that about 1.1 k values reach; those are put side by side, and a bisection among them finds the threshold.
#include "cuda/kernels.cuh"
#include "cuda/run_blocks.cuh"
#include "cuda/sparse.cuh"
// then
#include "codec/elias_fano.hpp"

namespace gw::cuda {
namespace {

constexpr uint32_t kIndexWords = kBlock / 32;  // a bitmap is the longest of the index codes

struct TopKShape : SparseShape {
  uint32_t index_bytes, low;
  IndexCode::Kind code;
};

class TopKBlock {
 public:
  static constexpr int kResident = 3, kExchanging = 1;
  using Shape = TopKShape;
  static GW_INLINE Shape shape_of(const gw_cuda_codec& codec, uint32_t length) {
    const size_t kept = kept_of(codec.k, length), bytes = value_bytes(codec.values, kept);
    const IndexCode code = index_code(kept, length);
    return {{static_cast<uint32_t>(code.bytes + bytes), static_cast<uint32_t>(kept),
             static_cast<uint32_t>(bytes)},
            static_cast<uint32_t>(code.bytes),
            code.low,
            code.kind};
  }
  static GW_INLINE uint64_t key_of(uint32_t, uint64_t) { return 0; }  // it draws nothing
  struct Shared {
    alignas(16) uint32_t index[kIndexWords + 4];
    union {
      alignas(16) uint8_t values[SparseValues::kRoom];
      uint32_t candidates[kBlock];
    };
    Together::Shared together;
  };

  GW_DEVICE TopKBlock(const Block<TopKBlock>& b, Together& together)
      : b_(b), s_(b.shape), together_(together), values_(b.call.values, b.shared.values) {}

  GW_DEVICE void encode(float (&v)[kHalves][kValues]) {
    uint32_t* index = b_.shared.index;
    clear(index, kIndexWords + 4);
    uint32_t chosen[kHalves], rank[kHalves];
    choose(v, chosen, rank);
    if (values_.coded()) {
      values_.clear_codes(s_.kept);
      uint32_t stat = 0;
      GW_UNROLL
      for (uint32_t h = 0; h < kHalves; ++h)
        for (int k = 0; k < kValues; ++k)
          if (chosen[h] >> k & 1) stat = max_of(stat, statistic(v[h][k]));
      values_.set_scale(together_.max(stat));
    }
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h) {
      if (s_.code == IndexCode::bitmap)
        reinterpret_cast<uint8_t*>(index)[b_.at(h) / 8] = static_cast<uint8_t>(chosen[h]);
      for (uint32_t k = 0; k < kValues; ++k) {
        float left = v[h][k];
        if (chosen[h] >> k & 1) {
          if (s_.code != IndexCode::bitmap) put_index(rank[h], b_.at(h) + k);
          left -= values_.put(rank[h]++, left);
        }
        v[h][k] = finite_or_zero(left);
      }
    }
    __syncthreads();
    copy_out(reinterpret_cast<const uint8_t*>(index), b_.payload, s_.index_bytes, all_threads());
    copy_out(b_.shared.values, b_.payload + s_.index_bytes, s_.value_bytes, all_threads());
  }

  GW_DEVICE void decode() {
    clear(b_.shared.index, kIndexWords + 4);
    if (!b_.call.add) give_zeros(b_);
    __syncthreads();
    copy_in(b_.payload, reinterpret_cast<uint8_t*>(b_.shared.index), s_.index_bytes, all_threads());
    copy_in(b_.payload + s_.index_bytes, b_.shared.values, s_.value_bytes, all_threads());
    __syncthreads();
    if (s_.code == IndexCode::plain) {
      for (uint32_t j = threadIdx.x; j < s_.kept; j += kThreads) give_one(b_, low_bits(j), values_.get(j));
    } else {
      decode_ones();
    }
  }

 private:
  // Orders values as the CPU does; 0 behind the end.
  GW_DEVICE uint32_t size_of(float v, uint32_t place) const {
    return place < b_.length ? magnitude(v) + 1 : 0;
  }

  // A bound in [low, high] that at least k of the sizes counted reach, given that k reach low: at most k + slack of them
  // reach it, or it is the k-th largest.
  template <class CountAtLeast>
  GW_DEVICE uint32_t bisect(CountAtLeast count, uint32_t slack, uint32_t low, uint32_t high) {
    while (low < high) {
      const uint32_t middle = low + (high - low + 1) / 2, n = together_.sum(count(middle));
      if (n < s_.kept) {
        high = middle - 1;
        continue;
      }
      low = middle;
      if (n - s_.kept <= slack) break;
    }
    return low;
  }

  GW_DEVICE uint32_t threshold(const float (&v)[kHalves][kValues]) {
    uint32_t mine = 0;
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h)
      for (uint32_t k = 0; k < kValues; ++k) mine = max_of(mine, size_of(v[h][k], b_.at(h) + k));
    const uint32_t high = together_.max(mine);
    uint32_t low = 1;
    if (b_.length == kBlock && 2 * s_.kept <= kThreads)
      low = bisect([&](uint32_t bound) { return mine >= bound; }, s_.kept / 8 + 2, 1, high);

    uint32_t n = 0;
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h)
      for (uint32_t k = 0; k < kValues; ++k) n += size_of(v[h][k], b_.at(h) + k) >= low;
    uint64_t total;
    auto at = static_cast<uint32_t>(together_.before(n, total));
    uint32_t* candidates = b_.shared.candidates;
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h)
      for (uint32_t k = 0; k < kValues; ++k)
        if (const uint32_t size = size_of(v[h][k], b_.at(h) + k); size >= low) candidates[at++] = size;
    __syncthreads();
    if (total == s_.kept) return low;
    const auto count = [&](uint32_t bound) {
      uint32_t reach = 0;
      for (uint32_t i = threadIdx.x; i < total; i += kThreads) reach += candidates[i] >= bound;
      return reach;
    };
    return bisect(count, 0, low, high);
  }

  // Bit k of chosen[h]: value k of that half is kept. rank[h]: how many of the block are kept before the first one of those.
  GW_DEVICE void choose(const float (&v)[kHalves][kValues], uint32_t (&chosen)[kHalves],
                        uint32_t (&rank)[kHalves]) {
    const uint32_t bound = threshold(v);
    // 16 bits each: how many are above in the first half, in the second, and as many ties
    uint64_t mine = 0, all;
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h)
      for (uint32_t k = 0; k < kValues; ++k) {
        const uint32_t size = size_of(v[h][k], b_.at(h) + k);
        mine += uint64_t{size > bound} << (16 * h) | uint64_t{size == bound} << (32 + 16 * h);
      }
    const uint64_t before = together_.before(mine, all);
    const uint32_t ties = s_.kept - field(all, 0) - field(all, 1);  // of the lowest places
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h) {
      const uint32_t above = field(before, h) + (h ? field(all, 0) : 0);
      uint32_t tied = field(before, 2 + h) + (h ? field(all, 2) : 0);
      rank[h] = above + min_of(tied, ties);
      chosen[h] = 0;
      for (uint32_t k = 0; k < kValues; ++k) {
        const uint32_t size = size_of(v[h][k], b_.at(h) + k);
        const bool tie = size == bound;
        chosen[h] |= uint32_t{size > bound || (tie && tied < ties)} << k;
        tied += tie;
      }
    }
  }

  GW_DEVICE void put_index(uint32_t j, uint32_t place) const {
    set_bits(b_.shared.index, j * s_.low, s_.low, place & ((1u << s_.low) - 1));
    if (s_.code == IndexCode::split)
      set_bits(b_.shared.index, s_.kept * s_.low + j + (place >> s_.low), 1, 1);
  }
  GW_DEVICE uint32_t low_bits(uint32_t j) const { return get_bits(b_.shared.index, j * s_.low, s_.low); }

  // Of the ones of a bitmap, or of the upper bits of the split code, each thread takes those of 32 bits.
  GW_DEVICE void decode_ones() {
    const bool split = s_.code == IndexCode::split;
    const uint32_t start = split ? s_.kept * s_.low : 0, first = start + 32 * threadIdx.x;
    uint32_t ones = first < 8 * s_.index_bytes ? get_bits(b_.shared.index, first, 32) : 0;
    uint64_t total;
    auto j = static_cast<uint32_t>(together_.before(static_cast<uint32_t>(__popc(ones)), total));
    for (; ones && j < s_.kept; ones &= ones - 1, ++j) {
      const uint32_t at = first - start + static_cast<uint32_t>(__ffs(static_cast<int>(ones))) - 1;
      give_one(b_, split ? (at - j) << s_.low | low_bits(j) : at, values_.get(j));
    }
  }

  const Block<TopKBlock>& b_;
  const TopKShape s_;
  Together& together_;
  SparseValues values_;
};

}  // namespace

int run_topk(const Task& t) {
  if (t.codec.id != 24) return GW_CUDA_NO_KERNEL;
  return run_blocks<TopKBlock>(t);
}

}  // namespace gw::cuda
