#include "comm/driver_staged.hpp"

#include <algorithm>

namespace gw {

size_t StagedDriver::residual_bytes() const {
  return there_.residual ? call_.in_bytes / size_of(plan_.operation.dtype) * sizeof(float) : 0;
}

void StagedDriver::begin(Staging& staging, uint64_t seq) {
  reserve(staging, seq);
  staging_ = &staging.gpu(call_.device);
  before_ = staging_->mark();
  call_.ready.hold_back(staging_->stream());
  arrays_.in = staging_->pinned(GpuStaging::kMirrorIn, call_.in_bytes);
  arrays_.out = plan_.operation.in_place ? const_cast<void*>(arrays_.in)
                                         : staging_->pinned(GpuStaging::kMirrorOut, call_.out_bytes);
  if (there_.residual)
    arrays_.residual =
        reinterpret_cast<float*>(staging_->pinned(GpuStaging::kMirrorResidual, residual_bytes()));
  bring();
  const size_t element = size_of(plan_.operation.dtype);
  auto* to = static_cast<std::byte*>(there_.out) + plan_.copy_out_offset * element;
  const auto* from = static_cast<const std::byte*>(there_.in) + plan_.copy_in_offset * element;
  if (to != from) gpu::copy_later(call_.device, to, from, plan_.copy_count * element, staging_->stream());
}

// The input, in pieces, so that the first can be sent while the last are still to come.
void StagedDriver::bring() {
  const Operation& op = plan_.operation;
  if (op.collective == Collective::recv || (op.collective == Collective::broadcast && op.peer != plan_.rank))
    return;
  constexpr size_t kSmallest = 1 << 20, kPieces = 32;
  const size_t bytes = call_.in_bytes;
  piece_bytes_ = std::max(kSmallest, bytes / kPieces / 64 * 64);
  gpu::copy_later(call_.device, arrays_.residual, there_.residual, residual_bytes(), staging_->stream());
  for (size_t at = 0; at < bytes; at += piece_bytes_) {
    const size_t length = std::min(piece_bytes_, bytes - at);
    gpu::copy_later(call_.device, static_cast<std::byte*>(const_cast<void*>(arrays_.in)) + at,
                    static_cast<const std::byte*>(there_.in) + at, length, staging_->stream());
    marks_.push_back(staging_->mark());
  }
}

// This rank's value of the unit.
bool StagedDriver::is_here(const Unit& u) {
  if (!u.from_input || !u.count || marks_.empty()) return true;
  const size_t end = (u.in_offset + u.count) * size_of(plan_.operation.dtype);
  return staging_->passed(marks_[(end - 1) / piece_bytes_]);
}

bool StagedDriver::ready(const Unit& u, size_t) { return is_here(u); }

size_t StagedDriver::fill(const Unit& u, size_t slot, std::byte* payload, CopyTuner* tuner) {
  const size_t bytes = CpuDriver::fill(u, slot, payload, tuner);
  if (u.adopt) send_back(u);
  return bytes;
}

Taken StagedDriver::take(const Arrival& a) {
  if (!staging_->passed(before_) || (a.unit.kind == StepKind::recv_reduce && !is_here(a.unit)))
    return Taken::no;
  const Taken taken = CpuDriver::take(a);
  if (a.unit.kind == StepKind::recv || a.unit.complete) send_back(a.unit);
  return taken;
}

// The part of the output that the unit has finished.
void StagedDriver::send_back(const Unit& u) {
  if (u.staged) return;
  const size_t element = size_of(plan_.operation.dtype), at = u.out_offset * element;
  gpu::copy_later(call_.device, static_cast<std::byte*>(there_.out) + at,
                  static_cast<std::byte*>(arrays_.out) + at, u.count * element, staging_->stream());
}

bool StagedDriver::finish() {
  if (pays_alone()) {
    if (!marks_.empty() && !staging_->passed(marks_.back())) return false;
    pay_alone();
    gpu::copy_later(call_.device, there_.out, arrays_.out, call_.out_bytes, staging_->stream());
  }
  gpu::copy_later(call_.device, there_.residual, arrays_.residual, residual_bytes(), staging_->stream());
  call_.finished.record(staging_->stream());
  return true;
}

void StagedDriver::abandon() {
  try {
    if (staging_) call_.finished.record(staging_->stream());
  } catch (const Error&) {
    // a GPU that reports errors runs nothing any more
  }
}

}  // namespace gw
