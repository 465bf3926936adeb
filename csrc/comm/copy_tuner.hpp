// Plain or streaming stores into memory that a peer reads? Where the two cores share a cache, plain ones: the peer then
// reads from it. Where they do not, streaming ones: 2-4 GB/s against 10-20 (two virtual cores, 2026-11). Virtual machines
// move between the two states within minutes, so both are timed all the time, the worse one rarely. The bytes written
// are the same either way.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstddef>

#include "codec/kernels.hpp"

namespace gw {

class CopyTuner {
 public:
  void copy(const void* in, void* out, size_t bytes) {
    constexpr size_t kWorthTiming = 8 << 10;
    if (bytes < kWorthTiming || reinterpret_cast<size_t>(out) % 64) return kernels().copy(in, out, bytes);
    const bool streaming = (++turn_ % kExplore == 0) != streaming_;
    const auto start = std::chrono::steady_clock::now();
    (streaming ? kernels().copy_streaming : kernels().copy)(in, out, bytes);
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    double& cost = cost_[streaming];
    const double now = took.count() / static_cast<double>(bytes);
    // one preempted copy, or the first touch of a page, must not outweigh hundreds of ordinary ones
    cost = cost == 0 ? now : cost + (std::min(now, 2 * cost) - cost) * kWeight;
    // The reader pays for streaming too (its data comes from memory), so it must win clearly.
    if (cost_[0] != 0 && cost_[1] != 0) streaming_ = cost_[1] * kClearly < cost_[0];
  }

 private:
  static constexpr unsigned kExplore = 16;  // one copy in so many tries the other way
  static constexpr double kWeight = 0.25, kClearly = 3;
  double cost_[2] = {0, 0};  // nanoseconds per byte, smoothed: plain, streaming
  bool streaming_ = false;
  unsigned turn_ = kExplore - 2;  // the second copy already tries
};

}  // namespace gw
