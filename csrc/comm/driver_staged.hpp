// Arrays on a GPU, without kernels for what is to be done: without a codec, or with one that works on the CPU. The CPU's
// driver works on a copy in pinned memory, which comes and goes in pieces while others are on the network.
#pragma once
#include <vector>

#include "comm/driver_cpu.hpp"
#include "comm/gpu_call.hpp"

namespace gw {

class StagedDriver : public CpuDriver {
 public:
  StagedDriver(const Plan& plan, const Buffers& buffers)
      : CpuDriver(plan, buffers), call_(*buffers.gpu), there_(buffers) {}
  void begin(Staging& staging, uint64_t seq) override;
  bool ready(const Unit& send, size_t slot) override;
  size_t fill(const Unit& send, size_t slot, std::byte* payload, CopyTuner* tuner) override;
  Taken take(const Arrival& arrival) override;
  bool finish() override;
  void abandon() override;

 private:
  void bring();
  bool is_here(const Unit& u);
  void send_back(const Unit& u);
  size_t residual_bytes() const;

  GpuCall& call_;
  Arrays there_;  // on the GPU; those of the base are here
  GpuStaging* staging_ = nullptr;
  uint64_t before_ = 0;  // the operation before is through
  size_t piece_bytes_ = 1;
  std::vector<uint64_t> marks_;  // of the pieces of the input
};

}  // namespace gw
