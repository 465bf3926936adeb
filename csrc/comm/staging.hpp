// Memory that operations share: it grows to the largest operation seen and is then reused, so that a warm
// communicator allocates nothing per call. Every active Program has a Staging of its own.
#pragma once
#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "comm/copy_tuner.hpp"
#include "comm/gpu_staging.hpp"
#include "comm/host_peers.hpp"

namespace gw {

// A peer's payload where it lies.
struct Payload {
  const std::byte* data = nullptr;
  size_t bytes = 0;
  std::byte* lent = nullptr;  // data, if that is an array itself; an answer goes there
};

class Staging {
 public:
  // fp32 scratch of one segment: values on their way into or out of a codec.
  float* scratch(size_t elements) { return grow(scratch_, scratch_size_, elements); }
  // Coded frames kept for forwarding: at most the coded size of the whole operation.
  std::byte* frames(size_t bytes) { return grow(frames_, frames_size_, bytes); }
  // Sums of a reduce_scatter on their way to their owner: as large as its input.
  std::byte* partials(size_t bytes) { return grow(partials_, partials_size_, bytes); }
  // One entry per source of a fold.
  Payload* spans(size_t n) {
    if (spans_.size() < n) spans_.resize(n);
    return spans_.data();
  }
  const void** sources(size_t n) {
    if (sources_.size() < n) sources_.resize(n);
    return sources_.data();
  }
  CopyTuner* copy_tuners(size_t peers) {
    if (copy_tuners_.size() < peers) copy_tuners_.resize(peers);
    return copy_tuners_.data();
  }
  // For operations on arrays of that GPU.
  GpuStaging& gpu(int device) {
    for (const auto& g : gpus_)
      if (g->device() == device) return *g;
    return *gpus_.emplace_back(std::make_unique<GpuStaging>(device));
  }
  // For operations in peer memory; of the device that the first of them asked for.
  HostPeers& peers(int device, int rank, int size) {
    if (!peers_) peers_ = std::make_unique<HostPeers>(device, rank, size);
    return *peers_;
  }
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }  // any thread

 private:
  struct Free {
    void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  template <class T>
  T* grow(std::unique_ptr<T, Free>& buffer, size_t& size, size_t wanted) {
    if (wanted > size) {
      buffer.reset();
      size = 0;
      buffer.reset(static_cast<T*>(::operator new(wanted * sizeof(T), std::align_val_t{64})));
      size = wanted;
      bytes_.store(scratch_size_ * sizeof(float) + frames_size_ + partials_size_, std::memory_order_relaxed);
    }
    return buffer.get();
  }
  std::unique_ptr<float, Free> scratch_;
  std::unique_ptr<std::byte, Free> frames_, partials_;
  size_t scratch_size_ = 0, frames_size_ = 0, partials_size_ = 0;
  std::atomic<size_t> bytes_ = 0;
  std::vector<Payload> spans_;
  std::vector<const void*> sources_;
  std::vector<CopyTuner> copy_tuners_;
  std::vector<std::unique_ptr<GpuStaging>> gpus_;
  std::unique_ptr<HostPeers> peers_;
};

}  // namespace gw
