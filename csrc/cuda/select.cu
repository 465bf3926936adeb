// The k largest magnitudes of a whole array in index order, as codec/topk_exact.hpp finds them: deterministic, ties to the lower
// index. The array is read twice:
//
//   1. histogram of the upper 12 of the 31 bits: which bin holds the k-th largest
//   2. candidates: what lies in that bin or above, in order (ordered.cuh); about 1.2 k of them
//   3. histograms of the next 12 bits and of the last 7, of the candidates: the k-th largest itself
//   4. what is above it, and as many of its ties as are still wanted, in order
//
// Where there are too many candidates to put aside (many equal magnitudes), 3 and 4 read the array instead. No step waits for
// the host: the number of candidates stays in device memory.
#include "cuda/kernels.cuh"
#include "cuda/ordered.cuh"
#include "cuda/together.cuh"

namespace gw::cuda {
namespace {

constexpr uint32_t kLevels = 3, kBins = 4096;
constexpr uint32_t kShift[kLevels] = {19, 7, 0}, kWidth[kLevels] = {12, 12, 7};
constexpr uint32_t kTile = 4096, kParts = kTile / (kThreads * kValues);  // values

// What the kernels tell one another; zeros at first.
struct Found {
  uint32_t prefix;      // upper bits of the k-th largest, as many as are known
  uint32_t rest;        // which one it is, from the top, of those with these upper bits
  uint32_t candidates;  // how many
  bool direct;          // too many: they were not put aside
  uint32_t done[kLevels], tickets[2];
};

struct SelectCall {
  const void* array;
  DType dtype;
  uint32_t count, k, capacity;
  Found* found;
  uint32_t* histograms;     // [kLevels][kBins]
  uint64_t* tiles[2];       // a word a tile, of the candidates and of the result
  uint32_t *bits, *places;  // [capacity]: the candidates
  float* values;            // [k]
  int64_t* indices;
  uint32_t bound;   // of Kept::at_least: the least magnitude
  uint32_t* total;  // of Kept::at_least: how many
};

// What a step reads: the array, or the candidates.
struct Source {
  const void* array;
  DType dtype;
  uint32_t count;
  const uint32_t* places;  // null: each value's own

  GW_DEVICE Source(const SelectCall& c, bool whole)
      : array(whole ? c.array : c.bits),
        dtype(whole ? c.dtype : DType::f32),
        count(whole ? c.count : c.found->candidates),
        places(whole ? nullptr : c.places) {}
};

// The bin that holds the rest-th largest, and what that says about it. Bin 0 is not counted: it is where the rest-th is if
// the others do not hold it.
template <uint32_t Level>
GW_DEVICE void narrow(const SelectCall& c, Together& together) {
  constexpr uint32_t kBits = kWidth[Level], kMany = 1u << kBits, kEach = (kMany + kThreads - 1) / kThreads;
  uint32_t* histogram = c.histograms + Level * kBins;
  const auto at = [&](uint32_t rank) {  // bins from the top
    return rank < kMany ? atomicAdd(histogram + kMany - 1 - rank, 0u) : 0;
  };
  const uint32_t first = threadIdx.x * kEach;
  uint32_t mine = 0;
  for (uint32_t i = 0; i < kEach; ++i) mine += at(first + i);
  uint64_t total;
  auto above = static_cast<uint32_t>(together.before(mine, total));
  const uint32_t wanted = Level == 0 ? c.k : c.found->rest, prefix = c.found->prefix;
  __syncthreads();  // all have read what one of them now writes
  const auto set = [&](uint32_t bin, uint32_t higher, uint32_t inside) {
    c.found->prefix = prefix << kBits | bin;
    c.found->rest = wanted - higher;
    if (Level > 0) return;
    c.found->candidates = higher + inside;
    c.found->direct = higher + inside > c.capacity;
  };
  if (threadIdx.x == 0 && wanted > total)
    set(0, static_cast<uint32_t>(total), c.count - static_cast<uint32_t>(total));
  if (wanted <= above || wanted > above + mine) return;
  for (uint32_t rank = first;; ++rank) {
    const uint32_t inside = at(rank);
    if (wanted <= above + inside) return set(kMany - 1 - rank, above, inside);
    above += inside;
  }
}

struct HistogramShared {
  uint32_t bins[kBins];
  uint32_t come;
  Together::Shared together;
};

template <uint32_t Level>
__global__ void __launch_bounds__(kThreads, 4) count_bits(SelectCall c) {
  auto& shared = shared_memory<HistogramShared>();
  Together together(shared.together);
  constexpr uint32_t kFrom = kShift[Level], kUpTo = kFrom + kWidth[Level], kMany = 1u << kWidth[Level];
  for (uint32_t i = threadIdx.x; i < kMany; i += kThreads) shared.bins[i] = 0;
  __syncthreads();
  const Source from(c, Level == 0 || c.found->direct);
  const uint32_t prefix = c.found->prefix;
  constexpr size_t kStep = kThreads * kValues;
  for (size_t at = blockIdx.x * kStep + threadIdx.x * kValues; at < from.count; at += gridDim.x * kStep) {
    float v[kValues];
    load(from.dtype, from.array, at, from.count, v);
    for (int k = 0; k < kValues; ++k) {
      const uint32_t size = magnitude(v[k]), bin = size >> kFrom & (kMany - 1);
      if (size >> kUpTo == prefix && bin) atomicAdd(shared.bins + bin, 1u);
    }
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < kMany; i += kThreads)
    if (shared.bins[i]) atomicAdd(c.histograms + Level * kBins + i, shared.bins[i]);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared.come = atomicAdd(c.found->done + Level, 1u);
  __syncthreads();
  if (shared.come + 1 < gridDim.x) return;
  __threadfence();
  narrow<Level>(c, together);  // by the last block that comes here
}

struct KeepShared {
  uint32_t tile;
  uint64_t before;
  Together::Shared together;
};

enum class Kept { candidates, result, at_least };

// What it writes: the candidates, the result, or what is at least c.bound, as far as there is room for it.
template <Kept What>
__global__ void __launch_bounds__(kThreads, 2) keep(SelectCall c) {
  constexpr bool kFinal = What == Kept::result;
  constexpr uint32_t kFrom = kShift[0];
  auto& shared = shared_memory<KeepShared>();
  Together together(shared.together);
  if (What == Kept::candidates && c.found->direct) return;
  const Source from(c, !kFinal || c.found->direct);
  // sizes are magnitudes + 1, and 0 behind the end
  uint32_t bound = c.bound, wanted = 0;  // wanted: ties
  if constexpr (What == Kept::candidates) bound = c.found->prefix << kFrom;
  if constexpr (kFinal) {
    bound = c.found->prefix + 1;
    wanted = c.found->rest;
  }
  constexpr uint32_t kHalf = kThreads * kValues;
  for (;;) {
    if (threadIdx.x == 0) shared.tile = atomicAdd(c.found->tickets + kFinal, 1u);
    __syncthreads();
    const uint32_t tile = shared.tile;
    if (size_t{tile} * kTile >= from.count) return;
    const size_t begin = size_t{tile} * kTile + threadIdx.x * kValues;
    float v[kParts][kValues];
    GW_UNROLL
    for (uint32_t p = 0; p < kParts; ++p) load(from.dtype, from.array, begin + p * kHalf, from.count, v[p]);
    const auto size_of = [&](uint32_t p, uint32_t k) {
      return begin + p * kHalf + k < from.count ? magnitude(v[p][k]) + 1 : 0;
    };
    // 16 bits each: how many are above in the first part, in the second, and as many ties
    uint64_t mine = 0, all;
    GW_UNROLL
    for (uint32_t p = 0; p < kParts; ++p)
      for (uint32_t k = 0; k < kValues; ++k)
        mine += uint64_t{size_of(p, k) > bound} << (16 * p) | uint64_t{size_of(p, k) == bound}
                                                                  << (32 + 16 * p);
    const uint64_t before = together.before(mine, all);
    if (threadIdx.x < 32) {
      const uint64_t counts = uint64_t{field(all, 2) + field(all, 3)} << 31 | (field(all, 0) + field(all, 1));
      const uint64_t sum = sum_before(c.tiles[kFinal], tile, counts);
      if (threadIdx.x == 0) shared.before = sum;
      if constexpr (What == Kept::at_least)
        if (threadIdx.x == 0 && (size_t{tile} + 1) * kTile >= from.count)
          *c.total = static_cast<uint32_t>((sum + counts) & 0x7fffffffu);
    }
    __syncthreads();
    GW_UNROLL
    for (uint32_t p = 0; p < kParts; ++p) {
      uint32_t above =
          static_cast<uint32_t>(shared.before & 0x7fffffffu) + field(before, p) + (p ? field(all, 0) : 0);
      uint32_t ties =
          static_cast<uint32_t>(shared.before >> 31) + field(before, 2 + p) + (p ? field(all, 2) : 0);
      for (uint32_t k = 0; k < kValues; ++k) {
        const uint32_t size = size_of(p, k);
        const bool tie = size == bound;
        if (size > bound || (tie && ties < wanted)) {
          const size_t at = begin + p * kHalf + k, to = above + min_of(ties, wanted);
          if constexpr (What == Kept::candidates) {
            c.bits[to] = bits_of(v[p][k]);
            c.places[to] = static_cast<uint32_t>(at);
          } else if (What == Kept::result || to < c.k) {
            c.values[to] = v[p][k];
            c.indices[to] = static_cast<int64_t>(from.places ? from.places[at] : at);
          }
        }
        above += size > bound;
        ties += tie;
      }
    }
  }
}

// Scratch: what must begin as zeros (Found, histograms, tiles), then the candidates.
struct Layout {
  size_t tiles, zeros;
  uint32_t capacity;

  Layout(size_t count, size_t k)
      : tiles((count + kTile - 1) / kTile),
        zeros((2 * tiles * sizeof(uint64_t) + kLevels * kBins * sizeof(uint32_t) + sizeof(Found) + 15) / 16 *
              16),
        capacity(static_cast<uint32_t>(min_of(count, 2 * k + (size_t{1} << 16)))) {}
  size_t bytes() const { return zeros + 2 * sizeof(uint32_t) * capacity; }
};

SelectCall call_of(const gw_cuda_topk& t, const Layout& layout) {
  auto* at = static_cast<unsigned char*>(t.scratch);
  const auto next = [&](size_t bytes) {
    unsigned char* here = at;
    at += bytes;
    return here;
  };
  SelectCall c{};
  c.array = t.x.data;
  c.dtype = static_cast<DType>(t.x.dtype);
  c.count = static_cast<uint32_t>(t.count);
  c.k = static_cast<uint32_t>(t.k);
  c.capacity = layout.capacity;
  for (auto& tiles : c.tiles) tiles = reinterpret_cast<uint64_t*>(next(layout.tiles * sizeof(uint64_t)));
  c.histograms = reinterpret_cast<uint32_t*>(next(kLevels * kBins * sizeof(uint32_t)));
  c.found = reinterpret_cast<Found*>(next(sizeof(Found)));
  at = static_cast<unsigned char*>(t.scratch) + layout.zeros;
  c.bits = reinterpret_cast<uint32_t*>(next(sizeof(uint32_t) * c.capacity));
  c.places = reinterpret_cast<uint32_t*>(at);
  c.values = t.values;
  c.indices = t.indices;
  static_assert(alignof(Found) == alignof(uint32_t));
  return c;
}

dim3 grid_of(const gw_cuda_topk& t, const Layout& layout) {
  return {static_cast<unsigned>(min_of(layout.tiles, size_t{most_blocks(t.device)})), 1, 1};
}

}  // namespace

uint64_t select_bytes(uint64_t count, uint64_t k) { return Layout(count, k).bytes(); }

int run_select(const gw_cuda_topk& t) {
  if (t.count >> 31 || t.k > t.count) return cudaErrorInvalidValue;
  if (t.k == 0) return 0;
  const Layout layout(t.count, t.k);
  const auto stream = static_cast<cudaStream_t>(t.stream);
  int error = cudaMemsetAsync(t.scratch, 0, layout.zeros, stream);
  const SelectCall c = call_of(t, layout);
  const auto run = [&](auto* kernel) {
    if (!error) error = launch(kernel, grid_of(t, layout), kThreads, stream, c);
  };
  run(count_bits<0>);
  run(keep<Kept::candidates>);
  run(count_bits<1>);
  run(count_bits<2>);
  run(keep<Kept::result>);
  return error;
}

int run_at_least(const gw_cuda_topk& t, float threshold, uint32_t* found) {
  if (t.count >> 31 || !(threshold > 0)) return cudaErrorInvalidValue;
  const Layout layout(t.count, t.k);
  const auto stream = static_cast<cudaStream_t>(t.stream);
  if (t.count == 0) return cudaMemsetAsync(found, 0, sizeof(*found), stream);
  if (const int error = cudaMemsetAsync(t.scratch, 0, layout.zeros, stream)) return error;
  SelectCall c = call_of(t, layout);
  c.bound = bits_of(threshold);
  c.total = found;
  return launch(keep<Kept::at_least>, grid_of(t, layout), kThreads, stream, c);
}

}  // namespace gw::cuda
