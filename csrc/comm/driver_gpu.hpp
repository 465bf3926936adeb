// Arrays on a GPU: kernels encode, decode and sum there, and only payloads come to the host and leave it, through pinned
// memory. A send is begun up to kAhead messages before its turn, so that kernel, copy and network work side by side.
// For codecs with kernels; what else there is goes through driver_staged.hpp.
#pragma once
#include <array>
#include <memory>

#include "comm/driver.hpp"
#include "comm/gpu_call.hpp"
#include "comm/gpu_staging.hpp"
#include "schedule/schedule.hpp"

namespace gw {

// buffers.gpu is set. The one that fits the plan.
std::unique_ptr<Driver> driver_of_gpu(const Plan& plan, const Buffers& buffers);

class GpuDriver : public Driver {
 public:
  GpuDriver(const Plan& plan, const Buffers& buffers) : Driver(plan, buffers), call_(*buffers.gpu) {}
  void begin(Staging& staging, uint64_t seq) override;
  void start(const Unit& send, size_t slot) override;
  bool ready(const Unit& send, size_t slot) override;
  size_t fill(const Unit& send, size_t slot, std::byte* payload, CopyTuner* tuner) override;
  Taken take(const Arrival& arrival) override;
  Payload finished(const Unit& recv_reduce, size_t lane) const override;
  void settle(const Unit& send) override;
  bool finish() override;
  void abandon() override;

 private:
  // Where a kept frame lies on both sides, and since when.
  struct Kept {
    std::byte *pinned, *on_gpu;
    uint64_t& mark;
  };
  Kept kept(const Unit& u) const;
  View view(const void* data, size_t count, DType dtype) const;
  View own_view(const Unit& u) const { return view(own_value(u), u.count, plan_.operation.dtype); }
  View out_view(const Unit& u) const { return view(output(u), u.count, plan_.operation.dtype); }
  View values(size_t count) const { return view(scratch_, count, DType::f32); }
  void copy(void* to, const void* from, size_t bytes) const;
  void pay_alone();
  bool may_receive(size_t messages);
  GpuStaging::Slot& next_receive();
  std::byte* bring(const Payload& payload, std::byte* pinned, std::byte* on_gpu) const;
  void receive(const Unit& u, const Payload& payload);
  void fold(const Arrival& a);
  void finish_chunk(const Unit& u);

  GpuCall& call_;
  GpuStaging* staging_ = nullptr;
  float* scratch_ = nullptr;
  std::byte *frames_ = nullptr, *frames_on_gpu_ = nullptr, *answers_ = nullptr;
  uint64_t before_ = 0;  // the operation before is through
  size_t received_ = 0;  // messages
  // By lane: a receive whose answer is on its way to the host.
  struct Answering {
    const Unit* unit = nullptr;
    uint64_t mark = 0;
  };
  std::array<Answering, kMaxLanes> answering_{};
};

}  // namespace gw
