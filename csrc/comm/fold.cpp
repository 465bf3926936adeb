// What a rank adds to what, and what it owes, in host memory.
#include <algorithm>

#include "codec/kernels.hpp"
#include "comm/driver_cpu.hpp"

namespace gw {

void CpuDriver::settle(const Unit& u) {
  const DType dtype = plan_.operation.dtype;
  const Kernels& k = kernels();
  float* owes = residual(u);
  k.load(dtype, input(u), owes, scratch_, u.count);
  k.store(dtype, scratch_, 1.0f, output(u), u.count);
  k.load(dtype, output(u), nullptr, owes, u.count);
  for (size_t i = 0; i < u.count; ++i) owes[i] = scratch_[i] - owes[i];
}

// One pass over all sources in rank order, this rank at its own place.
void CpuDriver::fold_raw(const Arrival& a) {
  const Unit& u = a.unit;
  int n = 0;
  bool own_placed = false;
  for (uint32_t i = 0; i < u.peers; ++i) {
    if (!own_placed && a.peers[i] > plan_.rank) {
      sources_[n++] = own_value(u);
      own_placed = true;
    }
    sources_[n++] = a.payloads[i].data;
  }
  if (!own_placed) sources_[n++] = own_value(u);
  const Operation& op = plan_.operation;
  kernels().fold(op.dtype, op.op == ReduceOp::avg ? ReduceOp::sum : op.op, sources_, n,
                 u.complete ? plan_.scale : 1.0, output(u), a.answer, u.count);
}

void CpuDriver::fold_coded(const Arrival& a) {
  const Unit& u = a.unit;
  const Codec& codec = *plan_.operation.codec;
  const DType dtype = plan_.operation.dtype;
  const Kernels& k = kernels();
  float* loss = residual(u);
  bool first = true;
  const auto add_frame = [&](Payload frame) {
    if (u.raw)
      (first ? k.load : k.load_add)(dtype, frame.data, nullptr, scratch_, u.count);
    else
      decode(u, frame, scratch_, !first);
    first = false;
  };
  const auto add_own = [&] {
    if (u.own_frame && !u.raw) return add_frame(kept(u));
    (first ? k.load : k.load_add)(dtype, own_value(u), owed(u), scratch_, u.count);
    first = false;
  };
  bool own_added = false;
  for (uint32_t i = 0; i < u.peers; ++i) {
    if (!own_added && a.peers[i] > plan_.rank) {
      add_own();
      own_added = true;
    }
    add_frame(a.payloads[i]);
  }
  if (!own_added) add_own();

  const float scale = u.complete ? static_cast<float>(plan_.scale) : 1.0f;
  if (u.encode) {
    // The owner encodes once and takes what it encoded, so that all replicas hold the same bits.
    if (scale != 1.0f) k.scale(scratch_, scale, u.count);
    // what a lossless codec sends must be what the array can hold
    if (!codec.lossy()) k.store(dtype, scratch_, 1.0f, output(u), u.count);
    if (!codec.lossy()) k.load(dtype, output(u), nullptr, scratch_, u.count);
    const size_t bytes =
        codec.encode(scratch_, nullptr, piece(u, plan_.rank), frames_ + u.slot + kSlotHead, loss);
    keep(u, bytes);
    // The residual is counted in units of one rank's share: what is lost of an average weighs size times as much.
    if (loss && scale != 1.0f) k.scale(loss, static_cast<float>(plan_.size), u.count);
    adopt(u, kept(u));
  } else {
    if (loss && u.from_input && !u.own_frame)
      std::fill_n(loss, u.count, 0.0f);  // paid out above, nothing lost
    k.store(dtype, scratch_, scale, output(u), u.count);
    // What a 16-bit array cannot hold of a partial sum waits in the residual until the sum is sent on.
    if (loss && !u.complete && size_of(dtype) == 2) {
      k.load(dtype, output(u), nullptr, loss, u.count);
      for (size_t i = 0; i < u.count; ++i) loss[i] = scratch_[i] - loss[i];
    }
  }
}

}  // namespace gw
