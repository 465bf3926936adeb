// One call on arrays of a GPU, as the caller's stream sees it: what was put there before the call is waited for, and what
// comes after it waits for the result. The operation itself runs on a stream of its own (gpu_staging.hpp).
#pragma once
#include <cstddef>

#include "base/deadline.hpp"
#include "base/error.hpp"
#include "base/view.hpp"
#include "cuda/gpu.hpp"

namespace gw {

struct GpuCall {
  GpuCall(const View& in, const View& out)
      : device(in.device),
        stream(in.stream),
        in_bytes(in.bytes()),
        out_bytes(out.bytes()),
        ready(in.device),
        finished(in.device) {
    ready.record(stream);
  }
  // The GPU is done with the caller's arrays. An operation that was never begun is.
  bool passed() const noexcept {
    try {
      return finished.passed();
    } catch (const Error&) {
      return true;  // it runs nothing any more
    }
  }
  // What is put on `later` from now on runs after the operation. Call it once the Work is done.
  void hold_back(void* later) const { finished.hold_back(later); }

  int device;
  void* stream;  // the caller's
  Deadline::Duration timeout{};
  size_t in_bytes, out_bytes;
  gpu::Event ready, finished;
};

}  // namespace gw
