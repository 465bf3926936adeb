// Exchanges with a row codec, in one kernel: a share is encoded into this rank's frames; a fold decodes the peers' frames
// where they lie and adds them in fp32 registers, in order of ranks; the finished value is encoded from there, and replaced by
// what its frame says. A warp takes a row at a time. The rules are those of comm/fold.cpp.
#pragma once
#include "cuda/peer_coded.cuh"
#include "cuda/rows.cuh"

namespace gw::cuda {

// Whether all ranks draw the same random numbers.
template <class Codec>
inline constexpr bool kSharesKey = requires { requires Codec::kSharedKey; };

template <class Codec>
class Coded : CodedUnits {
 public:
  using Shared = RowShared<Codec>;

  GW_DEVICE Coded(Shared& shared, const gw_cuda_exchange& e, uint32_t rank)
      : CodedUnits(e, rank, Key(e.codec.seed, e.step, kSharesKey<Codec> ? 0 : rank).key),
        shared_(shared),
        codec_(call_, shared.tables),
        lane_(threadIdx.x % 32),
        warp_(threadIdx.x / 32) {
    Codec::fill(shared.tables, threadIdx.x);
  }

  GW_DEVICE void work(const gw_cuda_unit& u, const Sources& sources) {
    begin(u);
    for (uint32_t i = warp_; i * kRow < u.count; i += kWarps) {
      const Span<Codec> row{
          codec_, call_, shared_.warps[warp_], lane_, size_t{i} * kRow, min_of(kRow, u.count - i * kRow),
          nullptr};
      work_on(u, sources, row, size_t{i} * codec_.row_bytes());
    }
  }

 private:
  // at: where the row's payload lies in a frame
  GW_DEVICE void work_on(const gw_cuda_unit& u, const Sources& sources, const Span<Codec>& row, size_t at) {
    const Row r = row.row(0);
    const uint32_t bytes = bytes_of(codec_, call_, row.count);
    uint8_t* slot = slot_of(u, at);
    float acc[kValues] = {};
    const bool folds = u.kind == GW_UNIT_REDUCE;
    for (uint32_t i = 0; i < (u.kind == GW_UNIT_SEND ? 1 : sources.count); ++i) {
      const uint8_t* frame = frame_of(u, sources, i);
      float v[kValues];
      if (frame) {
        copy_in(frame + at, row.mine.payload, bytes, {lane_, 32});
        __syncwarp();
        if (u.flags & GW_UNIT_KEEP) {
          copy_out(row.mine.payload, slot, bytes, {lane_, 32});
          __syncwarp();
        }
        lengthen(row);
        codec_.decode(r, v);
        __syncwarp();
      } else {
        own_value(u, r.at, v);
      }
      for (int k = 0; k < kValues; ++k) acc[k] = i == 0 ? v[k] : sum_of(acc[k], v[k]);
    }
    const bool averages = scales(u);
    if (averages)
      for (int k = 0; k < kValues; ++k) acc[k] = product_of(acc[k], e_.scale);
    if (u.flags & GW_UNIT_ENCODE) {
      if (folds && !e_.lossy) round_to_array(acc);
      for (uint32_t k = 0; k < kValues; ++k)  // behind the end levels need not be 0
        if (r.at + k >= call_.count) acc[k] = 0;
      encode(row, r, acc, averages);
      copy_out(row.mine.payload, slot, bytes, {lane_, 32});
      __syncwarp();
      if (!folds) return;
      lengthen(row);
      codec_.decode(r, acc);
      __syncwarp();
    } else if (folds && call_.loss) {
      settle(u, r.at, acc);
    }
    store(call_.dtype, call_.array, r.at, call_.count, acc);
  }

  GW_DEVICE void encode(const Span<Codec>& row, const Row& r, const float (&v)[kValues], bool averages) {
    float lost[kValues];
    codec_.encode(r, v, lost);
    put_lost(r.at, lost, averages);
    __syncwarp();
    if (row.rest()) {
      if (lane_ == 0) codec_.shorten(row.last_block(), row.rest());
      __syncwarp();
    }
  }
  GW_DEVICE void lengthen(const Span<Codec>& row) const {
    if (!row.rest()) return;
    if (lane_ == 0) codec_.lengthen(row.last_block(), row.rest());
    __syncwarp();
  }

  Shared& shared_;
  const Codec codec_;
  const uint32_t lane_, warp_;
};

template <class Codec>
__global__ void __launch_bounds__(kPeerThreads, 2) exchange_rows(const gw_cuda_exchange e) {
  run_units<Coded<Codec>, Signals>(e);
}

}  // namespace gw::cuda
