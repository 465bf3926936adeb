#include "comm/driver_cpu.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.hpp"
#include "codec/kernels.hpp"

namespace gw {

void CpuDriver::reserve(Staging& staging, uint64_t seq) {
  seq_ = seq;
  sources_ = staging.sources(static_cast<size_t>(plan_.size));
  if (plan_.scratch_elements) scratch_ = staging.scratch(plan_.scratch_elements);
  if (plan_.frame_store_bytes) frames_ = staging.frames(plan_.frame_store_bytes);
  if (plan_.staged_bytes) partials_ = staging.partials(plan_.staged_bytes);
}

void CpuDriver::begin(Staging& staging, uint64_t seq) {
  reserve(staging, seq);
  const size_t element = size_of(plan_.operation.dtype);
  if (plan_.copy_count)
    kernels().copy(static_cast<const std::byte*>(arrays_.in) + plan_.copy_in_offset * element,
                   static_cast<std::byte*>(arrays_.out) + plan_.copy_out_offset * element,
                   plan_.copy_count * element);
  if (pays_alone()) pay_alone();
}

void CpuDriver::pay_alone() {
  std::vector<float> sum(plan_.operation.count);
  kernels().load(plan_.operation.dtype, arrays_.in, arrays_.residual, sum.data(), sum.size());
  kernels().store(plan_.operation.dtype, sum.data(), 1.0f, arrays_.out, sum.size());
  std::fill_n(arrays_.residual, sum.size(), 0.0f);
}

size_t CpuDriver::fill(const Unit& u, size_t, std::byte* payload, CopyTuner* tuner) {
  if (!u.payload_bytes) return 0;
  const auto copy = [&](const void* from, size_t bytes) {
    if (tuner)
      tuner->copy(from, payload, bytes);
    else
      kernels().copy(from, payload, bytes);
    return bytes;
  };
  if (travels_raw(u)) {
    if (u.settle) settle(u);
    return copy(own_value(u), u.payload_bytes);
  }
  const bool slotted = u.slot != kNoSlot;
  Payload frame{payload, 0};
  if (u.encode) {
    // A completed value that starts here (broadcast, all_gather) has no residual: nobody sums it.
    float* loss = u.complete ? nullptr : residual(u);
    const float* debt = u.complete ? nullptr : owed(u);
    const auto* value = static_cast<const float*>(own_value(u));
    if (plan_.operation.dtype != DType::f32) {
      kernels().load(plan_.operation.dtype, own_value(u), debt, scratch_, u.count);
      value = scratch_;
      debt = nullptr;
    }
    std::byte* to = slotted ? frames_ + u.slot + kSlotHead : payload;
    frame.bytes = plan_.operation.codec->encode(value, debt, piece(u, plan_.rank), to, loss);
    frame.data = slotted ? keep(u, frame.bytes) : to;
    if (u.adopt) adopt(u, frame);
  } else {
    frame = kept(u);
  }
  return slotted ? copy(frame.data, frame.bytes) : frame.bytes;
}

Payload CpuDriver::ready_made(const Unit& u) const {
  if (!travels_raw(u)) return u.encode ? Payload{} : kept(u);
  return u.settle ? Payload{} : Payload{static_cast<const std::byte*>(own_value(u)), u.payload_bytes};
}

Taken CpuDriver::take(const Arrival& a) {
  if (!a.unit.payload_bytes) return Taken::yes;
  if (a.unit.kind == StepKind::recv) {
    store_received(a.unit, a.payloads[0]);
    return Taken::yes;
  }
  if (!folds_plainly(a.unit)) {
    fold_coded(a);
    return Taken::yes;
  }
  fold_raw(a);
  return Taken::answered;
}

Payload CpuDriver::finished(const Unit& u, size_t) const {
  if (!travels_raw(u)) return kept(u);
  auto* value = static_cast<std::byte*>(output(u));
  return {value, u.payload_bytes, value};
}

void CpuDriver::store_received(const Unit& u, const Payload& payload) {
  if (travels_raw(u)) {
    if (payload.data != output(u)) kernels().copy(payload.data, output(u), payload.bytes);
    return;
  }
  if (u.keep_frame) kernels().copy(payload.data, keep(u, payload.bytes), payload.bytes);
  adopt(u, payload);
}

// The output becomes what the frame says.
void CpuDriver::adopt(const Unit& u, const Payload& payload) {
  if (plan_.operation.dtype == DType::f32) {
    decode(u, payload, static_cast<float*>(output(u)), false);
  } else {
    decode(u, payload, scratch_, false);
    kernels().store(plan_.operation.dtype, scratch_, 1.0f, output(u), u.count);
  }
}

void CpuDriver::decode(const Unit& u, const Payload& payload, float* out, bool add) const {
  const Codec& codec = *plan_.operation.codec;
  const Piece p = piece(u, 0);
  const size_t used = add ? codec.decode_add(payload.data, payload.bytes, p, out)
                          : codec.decode(payload.data, payload.bytes, p, out);
  if (used != payload.bytes)
    throw Error(ErrorKind::frame, "malformed payload: " + std::to_string(payload.bytes) + " bytes came, " +
                                      std::to_string(used) + " were needed");
}

Payload CpuDriver::kept(const Unit& u) const {
  size_t bytes;
  std::memcpy(&bytes, frames_ + u.slot, sizeof(bytes));
  return {frames_ + u.slot + kSlotHead, bytes};
}

// Notes the size of a frame; returns where its payload lies.
std::byte* CpuDriver::keep(const Unit& u, size_t bytes) {
  std::memcpy(frames_ + u.slot, &bytes, sizeof(bytes));
  return frames_ + u.slot + kSlotHead;
}

}  // namespace gw
