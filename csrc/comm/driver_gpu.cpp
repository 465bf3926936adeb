#include "comm/driver_gpu.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "codec/kernels.hpp"
#include "comm/driver_peer.hpp"
#include "comm/driver_staged.hpp"

namespace gw {

std::unique_ptr<Driver> driver_of_gpu(const Plan& plan, const Buffers& buffers) {
  if (plan.in_peer_memory) return std::make_unique<PeerDriver>(plan, buffers);
  const Operation& op = plan.operation;
  if (op.codec && op.codec->lossy() && gpu::has_kernels(*op.codec, op.dtype, buffers.gpu->device))
    return std::make_unique<GpuDriver>(plan, buffers);
  return std::make_unique<StagedDriver>(plan, buffers);
}

// ---- memory ------------------------------------------------------------------------------------------------------

void GpuDriver::begin(Staging& staging, uint64_t seq) {
  seq_ = seq;
  staging_ = &staging.gpu(call_.device);
  before_ = staging_->mark();
  call_.ready.hold_back(staging_->stream());
  constexpr size_t kReceives = 16;
  staging_->resize(staging_->sends, plan_.lanes.size() * kAhead, plan_.most_payload_bytes);
  staging_->resize(staging_->receives, std::max(kReceives, plan_.most_peers), plan_.most_payload_bytes);
  answers_ = staging_->pinned(GpuStaging::kAnswers, kMaxLanes * plan_.most_payload_bytes);
  frames_ = staging_->pinned(GpuStaging::kFrames, plan_.frame_store_bytes);
  frames_on_gpu_ = staging_->on_gpu(GpuStaging::kFrames, plan_.frame_store_bytes);
  partials_ = staging_->on_gpu(GpuStaging::kPartials, plan_.staged_bytes);
  scratch_ = reinterpret_cast<float*>(
      staging_->on_gpu(GpuStaging::kScratch, plan_.scratch_elements * sizeof(float)));
  const size_t element = size_of(plan_.operation.dtype);
  copy(static_cast<std::byte*>(arrays_.out) + plan_.copy_out_offset * element,
       static_cast<const std::byte*>(arrays_.in) + plan_.copy_in_offset * element,
       plan_.copy_count * element);
  if (plan_.size == 1 && arrays_.residual) pay_alone();
}

void GpuDriver::pay_alone() {
  const size_t element = size_of(plan_.operation.dtype), whole = plan_.operation.count;
  for (size_t at = 0; at < whole; at += plan_.scratch_elements) {
    const size_t count = std::min(plan_.scratch_elements, whole - at);
    const auto* in = static_cast<const std::byte*>(arrays_.in) + at * element;
    auto* out = static_cast<std::byte*>(arrays_.out) + at * element;
    gpu::load(view(in, count, plan_.operation.dtype), arrays_.residual + at, scratch_, false);
    gpu::store(scratch_, 1.0f, view(out, count, plan_.operation.dtype));
  }
  gpu::clear(call_.device, arrays_.residual, whole * sizeof(float), staging_->stream());
}

View GpuDriver::view(const void* data, size_t count, DType dtype) const {
  return {.data = const_cast<void*>(data),
          .count = count,
          .dtype = dtype,
          .device = call_.device,
          .stream = staging_->stream()};
}

void GpuDriver::copy(void* to, const void* from, size_t bytes) const {
  if (to != from) gpu::copy_later(call_.device, to, from, bytes, staging_->stream());
}

GpuDriver::Kept GpuDriver::kept(const Unit& u) const {
  static_assert(sizeof(uint64_t) <= kSlotHead);
  return {frames_ + u.slot + kSlotHead, frames_on_gpu_ + u.slot + kSlotHead,
          *reinterpret_cast<uint64_t*>(frames_ + u.slot)};
}

// ---- sending -----------------------------------------------------------------------------------------------------

void GpuDriver::start(const Unit& u, size_t slot) {
  if (!u.payload_bytes) return;
  GpuStaging::Slot& mine = staging_->sends[slot];
  if (travels_raw(u)) {
    if (u.settle) settle(u);
    copy(mine.pinned, own_value(u), u.payload_bytes);
    mine.mark = staging_->mark();
  } else if (u.encode) {
    const bool slotted = u.slot != kNoSlot;
    std::byte* frame = slotted ? kept(u).on_gpu : mine.on_gpu;
    // A completed value that starts here (broadcast, all_gather) has no residual: nobody sums it.
    const gpu::Residual feedback{u.complete ? nullptr : owed(u), u.complete ? nullptr : residual(u),
                                 gpu::ResidualKind::fp32};
    const Codec& codec = *plan_.operation.codec;
    gpu::encode(codec, own_view(u), piece(u, plan_.rank), feedback, frame);
    copy(slotted ? kept(u).pinned : mine.pinned, frame, u.payload_bytes);
    if (u.adopt) gpu::decode(codec, frame, piece(u, 0), out_view(u), false);
    (slotted ? kept(u).mark : mine.mark) = staging_->mark();
  }
}

bool GpuDriver::ready(const Unit& u, size_t slot) {
  if (!u.payload_bytes) return true;
  const bool in_store = !travels_raw(u) && u.slot != kNoSlot;
  return staging_->passed(in_store ? kept(u).mark : staging_->sends[slot].mark);
}

size_t GpuDriver::fill(const Unit& u, size_t slot, std::byte* payload, CopyTuner* tuner) {
  if (!u.payload_bytes) return 0;
  const bool in_store = !travels_raw(u) && u.slot != kNoSlot;
  const std::byte* from = in_store ? kept(u).pinned : staging_->sends[slot].pinned;
  if (tuner)
    tuner->copy(from, payload, u.payload_bytes);
  else
    kernels().copy(from, payload, u.payload_bytes);
  return u.payload_bytes;
}

void GpuDriver::settle(const Unit& u) {
  gpu::load(view(input(u), u.count, plan_.operation.dtype), residual(u), scratch_, false);
  gpu::store(scratch_, 1.0f, out_view(u), residual(u));
}

// ---- receiving ---------------------------------------------------------------------------------------------------

Taken GpuDriver::take(const Arrival& a) {
  const Unit& u = a.unit;
  if (!u.payload_bytes) return Taken::yes;
  Answering& answering = answering_[a.lane];
  if (answering.unit == &u) {
    if (!staging_->passed(answering.mark)) return Taken::no;
    answering.unit = nullptr;
    return Taken::yes;
  }
  if (!staging_->passed(before_) || !may_receive(u.peers)) return Taken::no;
  if (u.kind == StepKind::recv) {
    receive(u, a.payloads[0]);
    return Taken::yes;
  }
  fold(a);
  if (!a.answer) return Taken::yes;
  if (travels_raw(u)) copy(answers_ + a.lane * plan_.most_payload_bytes, output(u), u.payload_bytes);
  answering = {&u, staging_->mark()};
  return Taken::no;
}

Payload GpuDriver::finished(const Unit& u, size_t lane) const {
  if (!travels_raw(u)) return {kept(u).pinned, u.payload_bytes};
  return {answers_ + lane * plan_.most_payload_bytes, u.payload_bytes};
}

bool GpuDriver::may_receive(size_t messages) {
  for (size_t i = 0; i < messages; ++i)
    if (!staging_->passed(staging_->receives[(received_ + i) % staging_->receives.size()].mark)) return false;
  return true;
}
GpuStaging::Slot& GpuDriver::next_receive() {
  return staging_->receives[received_++ % staging_->receives.size()];
}

// To the GPU; returns where it lies there.
std::byte* GpuDriver::bring(const Payload& payload, std::byte* pinned, std::byte* on_gpu) const {
  kernels().copy(payload.data, pinned, payload.bytes);
  copy(on_gpu, pinned, payload.bytes);
  return on_gpu;
}

void GpuDriver::receive(const Unit& u, const Payload& payload) {
  if (u.keep_frame) {
    const Kept frame = kept(u);
    gpu::decode(*plan_.operation.codec, bring(payload, frame.pinned, frame.on_gpu), piece(u, 0), out_view(u),
                false);
    frame.mark = 0;  // it lies on the host already
    return;
  }
  GpuStaging::Slot& slot = next_receive();
  if (travels_raw(u))
    bring(payload, slot.pinned, static_cast<std::byte*>(output(u)));
  else
    gpu::decode(*plan_.operation.codec, bring(payload, slot.pinned, slot.on_gpu), piece(u, 0), out_view(u),
                false);
  slot.mark = staging_->mark();
}

// In rank order, as fold.cpp does it.
void GpuDriver::fold(const Arrival& a) {
  const Unit& u = a.unit;
  const DType dtype = plan_.operation.dtype;
  bool first = true, own_added = false;
  const auto add = [&](const std::byte* frame) {
    if (u.raw)
      gpu::load(view(frame, u.count, dtype), nullptr, scratch_, !first);
    else
      gpu::decode(*plan_.operation.codec, frame, piece(u, 0), values(u.count), !first);
    first = false;
  };
  const auto add_own = [&] {
    own_added = true;
    if (u.own_frame && !u.raw) return add(kept(u).on_gpu);
    gpu::load(own_view(u), folds_plainly(u) ? nullptr : owed(u), scratch_, !first);
    first = false;
  };
  const size_t begin = received_;
  for (uint32_t i = 0; i < u.peers; ++i) {
    if (!own_added && a.peers[i] > plan_.rank) add_own();
    GpuStaging::Slot& slot = next_receive();
    add(bring(a.payloads[i], slot.pinned, slot.on_gpu));
  }
  if (!own_added) add_own();
  finish_chunk(u);
  const uint64_t mark = staging_->mark();
  for (size_t i = begin; i < received_; ++i) staging_->receives[i % staging_->receives.size()].mark = mark;
}

// The sum, in scratch, becomes the output, and what it loses on the way goes into the residual.
void GpuDriver::finish_chunk(const Unit& u) {
  const float scale = u.complete ? static_cast<float>(plan_.scale) : 1.0f;
  float* loss = folds_plainly(u) ? nullptr : residual(u);
  if (!u.encode) {
    if (loss && u.from_input && !u.own_frame)
      gpu::clear(call_.device, loss, u.count * sizeof(float), staging_->stream());
    const bool rounds = !u.complete && size_of(plan_.operation.dtype) == 2;
    return gpu::store(scratch_, scale, out_view(u), rounds ? loss : nullptr);
  }
  const Codec& codec = *plan_.operation.codec;
  const Kept frame = kept(u);
  if (scale != 1.0f) gpu::store(scratch_, scale, values(u.count));
  gpu::encode(codec, values(u.count), piece(u, plan_.rank), {nullptr, loss, gpu::ResidualKind::fp32},
              frame.on_gpu);
  copy(frame.pinned, frame.on_gpu, codec.encoded_bytes(u.count));
  // The residual is counted in units of one rank's share: what is lost of an average weighs size times as much.
  if (loss && scale != 1.0f)
    gpu::store(loss, static_cast<float>(plan_.size), view(loss, u.count, DType::f32));
  gpu::decode(codec, frame.on_gpu, piece(u, 0), out_view(u), false);
  frame.mark = staging_->mark();
}

// ---- the end -------------------------------------------------------------------------------------------------------

bool GpuDriver::finish() {
  call_.finished.record(staging_->stream());
  return true;
}

void GpuDriver::abandon() {
  try {
    if (staging_) finish();
  } catch (const Error&) {
    // a GPU that reports errors runs nothing any more
  }
}

}  // namespace gw
