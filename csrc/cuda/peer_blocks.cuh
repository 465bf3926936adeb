// Exchanges with a codec whose blocks of 4096 values a thread block takes, in one kernel: as in peer_rows.cuh, but frames are decoded
// into sums in shared memory, as if that were the array, because a sparse frame adds to single places only. All such codecs
// are lossy.
#pragma once
#include "cuda/blocks.cuh"
#include "cuda/peer_coded.cuh"

namespace gw::cuda {

template <class Codec>
struct PeerBlockShared {
  typename Codec::Shared codec;
  alignas(16) float room[kBlock];
  GW_DEVICE float* sums() { return room; }
};
// A codec that has room for a block while it encodes lends it meanwhile: both would be more than a kernel may have.
template <class Codec>
  requires requires(typename Codec::Shared shared) { shared.x; }
struct PeerBlockShared<Codec> {
  typename Codec::Shared codec;
  GW_DEVICE float* sums() { return codec.x; }
};

template <class Codec>
class CodedBlocks : CodedUnits {
 public:
  using Shared = PeerBlockShared<Codec>;

  GW_DEVICE CodedBlocks(Shared& shared, const gw_cuda_exchange& e, uint32_t rank)
      : CodedUnits(e, rank, Codec::key_of(e.codec.seed, e.step)),
        shared_(shared),
        together_(shared.codec.together) {}

  GW_DEVICE void work(const gw_cuda_unit& u, const Sources& sources) {
    begin(u);
    const auto full = Codec::shape_of(e_.codec, kBlock);
    size_t at = 0;  // of the block's payload in a frame
    for (uint32_t from = 0; from < u.count; from += kBlock, at += full.bytes) {
      const uint32_t length = min_of(kBlock, u.count - from);
      CodeCall call = call_;  // on the sums
      call.array = shared_.sums();
      call.dtype = DType::f32;
      call.count = length;
      call.first = u.at + from;
      Block<Codec> b{.call = call,
                     .shape = length == kBlock ? full : Codec::shape_of(e_.codec, length),
                     .shared = shared_.codec,
                     .begin = 0,
                     .length = length,
                     .payload = nullptr};
      float v[kHalves][kValues];
      if (u.kind == GW_UNIT_SEND) {
        GW_UNROLL
        for (uint32_t h = 0; h < kHalves; ++h) own_value(u, from + b.at(h), v[h]);
      } else {
        add_up(u, sources, {from, at}, call, b);
        take_sums(b, v);
      }
      finish(u, {from, at}, call, b, v);
      __syncthreads();  // before the shared memory is used for the next block
    }
  }

 private:
  struct Place {
    uint32_t value;  // of the block's first value in the unit
    size_t byte;     // of its payload in a frame
  };

  GW_DEVICE void add_up(const gw_cuda_unit& u, const Sources& sources, Place at, CodeCall& call,
                        Block<Codec>& b) {
    for (uint32_t i = 0; i < sources.count; ++i) {
      call.add = i > 0;
      const uint8_t* frame = frame_of(u, sources, i);
      if (frame) {
        frame += at.byte;
        if (u.flags & GW_UNIT_KEEP) {
          uint8_t* slot = slot_of(u, at.byte);
          copy_together(frame, slot, b.shape.bytes);
          __syncthreads();
          frame = slot;
        }
        b.payload = const_cast<uint8_t*>(frame);
        Codec(b, together_).decode();
      } else {
        GW_UNROLL
        for (uint32_t h = 0; h < kHalves; ++h) {
          float mine[kValues];
          own_value(u, at.value + b.at(h), mine);
          give(call, b.at(h), mine);
        }
      }
      __syncthreads();
    }
  }
  GW_DEVICE void take_sums(const Block<Codec>& b, float (&v)[kHalves][kValues]) {
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h) load_floats(shared_.sums(), b.at(h), b.length, v[h]);
  }

  GW_DEVICE void finish(const gw_cuda_unit& u, Place at, CodeCall& call, Block<Codec>& b,
                        float (&v)[kHalves][kValues]) {
    const bool averages = scales(u), folds = u.kind == GW_UNIT_REDUCE;
    if (averages)
      for (auto& half : v)
        for (float& value : half) value = product_of(value, e_.scale);
    if (u.flags & GW_UNIT_ENCODE) {
      b.payload = slot_of(u, at.byte);
      Codec(b, together_).encode(v);  // what is left of v is what was lost
      GW_UNROLL
      for (uint32_t h = 0; h < kHalves; ++h) put_lost(at.value + b.at(h), v[h], averages);
      if (!folds) return;
      __syncthreads();
      call.add = false;
      Codec(b, together_).decode();
      __syncthreads();
      take_sums(b, v);
    } else if (folds && call_.loss) {
      GW_UNROLL
      for (uint32_t h = 0; h < kHalves; ++h) settle(u, at.value + b.at(h), v[h]);
    }
    GW_UNROLL
    for (uint32_t h = 0; h < kHalves; ++h)
      store(call_.dtype, call_.array, at.value + b.at(h), call_.count, v[h]);
  }

  Shared& shared_;
  Together together_;
};

template <class Codec>
__global__ void __launch_bounds__(kPeerThreads, Codec::kExchanging)
    exchange_blocks(const gw_cuda_exchange e) {
  run_units<CodedBlocks<Codec>, Signals>(e);
}

}  // namespace gw::cuda
