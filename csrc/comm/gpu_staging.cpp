#include "comm/gpu_staging.hpp"

#include <algorithm>
#include <bit>
#include <thread>

#include "base/deadline.hpp"
#include "base/error.hpp"

namespace gw {

GpuStaging::~GpuStaging() {
  constexpr std::chrono::microseconds kPatience{10'000'000}, kNap{200};
  try {
    const uint64_t last = mark();
    for (const Deadline until = Deadline::after(kPatience); !passed(last);) {
      if (until.passed()) return;
      std::this_thread::sleep_for(kNap);
    }
  } catch (const Error&) {
    // a GPU that reports errors runs nothing any more
  }
  outgrown_.insert(outgrown_.end(), pinned_.begin(), pinned_.end());
  outgrown_.insert(outgrown_.end(), on_gpu_.begin(), on_gpu_.end());
  for (const Block& block : outgrown_) {
    if (!block.data) continue;
    if (block.pinned)
      gpu::unpin(block.data);
    else
      gpu::release(device_, block.data);
  }
}

uint64_t GpuStaging::mark() {
  auto& event = events_[++marked_ % kMarks];
  if (!event) event.emplace(device_);
  event->record(stream());
  return marked_;
}

bool GpuStaging::passed(uint64_t mark) {
  while (passed_ < mark) {
    // the oldest whose event was not used again; that one passes later than those before it
    const uint64_t next = std::max(passed_ + 1, marked_ >= kMarks ? marked_ - kMarks + 1 : 1);
    if (!events_[next % kMarks]->passed()) return false;
    passed_ = next;
  }
  return true;
}

std::byte* GpuStaging::grown(Block& block, size_t bytes, bool pinned) {
  if (bytes <= block.bytes) return block.data;
  if (block.data) outgrown_.push_back(block);
  block = {};
  const size_t size = std::bit_ceil(bytes);  // so that all that was outgrown is no more than what is in use
  block = {static_cast<std::byte*>(pinned ? gpu::pin(device_, size) : gpu::allocate(device_, size)), size,
           pinned};
  return block.data;
}

void GpuStaging::resize(std::vector<Slot>& slots, size_t count, size_t bytes) {
  const Use use = &slots == &sends ? kSends : kReceives;
  constexpr size_t kAlign = 256;
  const size_t stride = (bytes + kAlign - 1) / kAlign * kAlign;
  std::byte* on_host = pinned(use, count * stride);
  std::byte* there = on_gpu(use, count * stride);
  const uint64_t now = marked_;  // all that was put there before
  slots.resize(count);
  for (size_t i = 0; i < count; ++i) slots[i] = {on_host + i * stride, there + i * stride, now};
}

}  // namespace gw
