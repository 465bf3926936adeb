// Arrays in host memory: the loops of codec/, on the spot.
#pragma once
#include "comm/driver.hpp"

namespace gw {

class CpuDriver : public Driver {
 public:
  using Driver::Driver;
  void begin(Staging& staging, uint64_t seq) override;
  size_t fill(const Unit& send, size_t slot, std::byte* payload, CopyTuner* tuner) override;
  Payload ready_made(const Unit& send) const override;
  Taken take(const Arrival& arrival) override;
  Payload finished(const Unit& recv_reduce, size_t lane) const override;
  void settle(const Unit& send) override;

 protected:
  void reserve(Staging& staging, uint64_t seq);
  // Alone, nothing is encoded; what an earlier, larger world left in the residual is paid out.
  bool pays_alone() const { return plan_.size == 1 && arrays_.residual && plan_.operation.count; }
  void pay_alone();

 private:
  void fold_raw(const Arrival& arrival);
  void fold_coded(const Arrival& arrival);
  void store_received(const Unit& u, const Payload& payload);
  void adopt(const Unit& u, const Payload& payload);
  void decode(const Unit& u, const Payload& payload, float* out, bool add) const;
  Payload kept(const Unit& u) const;
  std::byte* keep(const Unit& u, size_t bytes);

  float* scratch_ = nullptr;
  std::byte* frames_ = nullptr;
  const void** sources_ = nullptr;
};

}  // namespace gw
