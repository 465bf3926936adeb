// What operations on one GPU pass through: a stream, and memory on both sides of it. Their order on the stream is what
// keeps them apart; where the host has to know how far the stream has come, it asks for a mark.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "cuda/gpu.hpp"

namespace gw {

class GpuStaging {
 public:
  explicit GpuStaging(int device) : device_(device), stream_(device) {}
  // Waits for the stream, but not for ever: memory that a stuck GPU may still use is left to it.
  ~GpuStaging();
  int device() const { return device_; }
  void* stream() const { return stream_.get(); }

  // A moment of the stream: now. Throw Error(gpu) if anything before it failed.
  uint64_t mark();
  bool passed(uint64_t mark);

  enum Use {
    kFrames,
    kSends,
    kReceives,
    kAnswers,
    kScratch,
    kPartials,
    kMirrorIn,
    kMirrorOut,
    kMirrorResidual
  };
  // At least `bytes`, on the host or on the GPU. What the last operation left there is undefined.
  std::byte* pinned(Use use, size_t bytes) { return grown(pinned_[use], bytes, true); }
  std::byte* on_gpu(Use use, size_t bytes) { return grown(on_gpu_[use], bytes, false); }

  // A place on both sides, in use until the mark.
  struct Slot {
    std::byte *pinned = nullptr, *on_gpu = nullptr;
    uint64_t mark = 0;
  };
  std::vector<Slot> sends, receives;
  // One of the two: so many, with room for so many bytes each, all in use until now.
  void resize(std::vector<Slot>& slots, size_t count, size_t bytes);

 private:
  struct Block {
    std::byte* data = nullptr;
    size_t bytes = 0;
    bool pinned = false;
  };
  std::byte* grown(Block& block, size_t bytes, bool pinned);

  static constexpr size_t kMarks = 64, kUses = kMirrorResidual + 1;
  int device_;
  gpu::Stream stream_;
  std::array<std::optional<gpu::Event>, kMarks> events_;
  uint64_t marked_ = 0, passed_ = 0;
  std::array<Block, kUses> pinned_{}, on_gpu_{};
  // The stream may still use them, and freeing GPU memory waits for the whole GPU.
  std::vector<Block> outgrown_;
};

}  // namespace gw
