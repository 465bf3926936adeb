// Arrays on GPUs whose ranks map one another's memory (host_peers.hpp): a kernel on each reduces, and no value travels. The
// messages of the plan are signatures with the place of each rank's memory. Only once they have come from everybody is the
// kernel launched: ranks that call different things get their MismatchError, one that does not come is noticed as anywhere
// else, and a kernel waits for nobody who has not called. It waits for less long than the operation; then the host asks around
// who is to blame (watchdog.hpp). If the operation fails, the kernel is told to stop.
#pragma once
#include "comm/driver.hpp"
#include "comm/gpu_call.hpp"
#include "comm/host_peers.hpp"

namespace gw {

class PeerDriver : public Driver {
 public:
  PeerDriver(const Plan& plan, const Buffers& buffers) : Driver(plan, buffers), call_(*buffers.gpu) {}
  void begin(Staging& staging, uint64_t seq) override;
  size_t fill(const Unit& send, size_t slot, std::byte* payload, CopyTuner* tuner) override;
  Taken take(const Arrival& arrival) override;
  Payload finished(const Unit&, size_t) const override { return {}; }  // nobody asks
  void settle(const Unit&) override {}
  bool finish() override;
  void abandon() override;
  std::vector<int> missing() const override;
  int missing_in_step() const override;

 private:
  View view(void* data, DType dtype) const;
  PeerCall peer_call() const;

  GpuCall& call_;
  HostPeers* peers_ = nullptr;
  Deadline::Clock::time_point begun_{};
  bool failed_ = false;  // a wait of the kernel's was in vain
};

}  // namespace gw
