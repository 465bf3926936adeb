// The frame of every kernel whose codec has blocks of up to 256 values. A warp takes a span of 1024 values in four rows of
// 256, each lane 8 consecutive values of a row, so a block is 4 to 32 neighbouring lanes. Payloads pass through shared
// memory: a span's is written, and read, 16 bytes at a time.
//
// A RowCodec<...> has
//   struct Tables, fill(Tables&, thread)         what a block of threads shares; filled by its 256 threads
//   RowCodec(const CodeCall&, const Tables&)
//   kMostBytes                                   of a row
//   row_bytes()                                  of a row in this call
//   encode(row, v, lost), decode(row, v)         8 values of a lane; all lanes of the warp call it together
//   short_bytes(rest)                            what travels of a last block of `rest` values
//   shorten(block, rest), lengthen(block, rest)    between a whole block and what travels, in place; by one lane
#pragma once
#include "cuda/call.cuh"

namespace gw::cuda {

inline constexpr uint32_t kRow = 32 * kValues, kRows = 4, kSpan = kRows * kRow;  // values

// What a lane knows of the row it works on.
struct Row {
  uint32_t lane;
  size_t at;         // place of the lane's first value, from the beginning of the array
  uint64_t element;  // the same for random numbers
  uint8_t* codes;    // kRow bytes of scratch of the warp, aligned to 16
  uint8_t* payload;  // of the row, in shared memory
  bool wants_loss;
};

template <class Codec>
struct RowShared {
  struct Warp {
    alignas(16) uint8_t payload[kRows * Codec::kMostBytes + 16];
    alignas(16) uint8_t codes[kRow];
  };
  Warp warps[kWarps];
  typename Codec::Tables tables;
};

// Bytes of `count` values, and what the last, short block has of them.
template <class Codec>
GW_DEVICE uint32_t bytes_of(const Codec& codec, const CodeCall& call, uint32_t count) {
  const uint32_t rest = count % call.block, block_bytes = codec.row_bytes() / (kRow / call.block);
  return count / call.block * block_bytes + (rest ? codec.short_bytes(rest) : 0);
}

// What a warp works on at a time, and its lane that asks.
template <class Codec>
struct Span {
  const Codec& codec;
  const CodeCall& call;
  typename RowShared<Codec>::Warp& mine;
  uint32_t lane;
  size_t begin;      // place of the first value
  uint32_t count;    // values
  uint8_t* payload;  // theirs, in memory

  GW_DEVICE uint32_t rest() const { return count % call.block; }
  GW_DEVICE uint8_t* last_block() const { return mine.payload + bytes_of(codec, call, count - rest()); }
  GW_DEVICE Row row(uint32_t i) const {
    const size_t at = begin + i * kRow + lane * kValues;
    return {.lane = lane,
            .at = at,
            .element = call.first + at,
            .codes = mine.codes,
            .payload = mine.payload + i * codec.row_bytes(),
            .wants_loss = call.loss != nullptr};
  }
};

template <class Codec>
GW_DEVICE void encode_span(const Span<Codec>& s) {
  const CodeCall& call = s.call;
  for (uint32_t i = 0; i * kRow < s.count; ++i) {
    const Row r = s.row(i);
    float v[kValues], lost[kValues];
    take(call, r.at, v);
    s.codec.encode(r, v, lost);
    put_loss(call.residual, call.loss, r.at, call.count, lost);
  }
  __syncwarp();
  if (s.rest()) {
    if (s.lane == 0) s.codec.shorten(s.last_block(), s.rest());
    __syncwarp();
  }
  copy_out(s.mine.payload, s.payload, bytes_of(s.codec, call, s.count), {s.lane, 32});
}

template <class Codec>
GW_DEVICE void decode_span(const Span<Codec>& s) {
  const CodeCall& call = s.call;
  copy_in(s.payload, s.mine.payload, bytes_of(s.codec, call, s.count), {s.lane, 32});
  __syncwarp();
  if (s.rest()) {
    if (s.lane == 0) s.codec.lengthen(s.last_block(), s.rest());
    __syncwarp();
  }
  for (uint32_t i = 0; i * kRow < s.count; ++i) {
    const Row r = s.row(i);
    float v[kValues];
    s.codec.decode(r, v);
    give(call, r.at, v);
  }
}

template <class Codec, bool Decode>
__global__ void __launch_bounds__(kThreads, 4) code_rows(CodeCall call) {
  auto& shared = shared_memory<RowShared<Codec>>();
  Codec::fill(shared.tables, threadIdx.x);
  __syncthreads();
  const Codec codec(call, shared.tables);
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const size_t spans = (call.count + kSpan - 1) / kSpan, span_bytes = size_t{kRows} * codec.row_bytes();
  for (size_t i = size_t{blockIdx.x} * kWarps + warp; i < spans; i += size_t{gridDim.x} * kWarps) {
    const size_t begin = i * kSpan;
    const auto count = static_cast<uint32_t>(min_of(size_t{kSpan}, call.count - begin));
    const Span<Codec> span{codec, call,  shared.warps[warp],           lane,
                           begin, count, call.payload + i * span_bytes};
    if constexpr (Decode)
      decode_span(span);
    else
      encode_span(span);
    __syncwarp();
  }
}

}  // namespace gw::cuda
