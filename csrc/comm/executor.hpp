// The executor: carries out one Plan over a Transport, one small step at a time, without ever blocking.
//
// Rules it keeps for every schedule and codec: see csrc/README.md ("The executor's rules").
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "comm/driver_cpu.hpp"
#include "comm/plan.hpp"
#include "comm/staging.hpp"
#include "comm/trace.hpp"
#include "transport/transport.hpp"

namespace gw {

class Executor {
 public:
  // Nothing moves before begin(). The memory in `buffers` must stay valid until done().
  Executor(std::shared_ptr<const Plan> plan, const Buffers& buffers);

  void begin(Transport& transport, Staging& staging, Trace& trace);
  // Does what can be done now. True if anything was done. Throws Error(mismatch) if a peer runs something else, and
  // Error(frame) if a peer's bytes make no sense; the executor must not be used afterwards.
  bool advance();
  bool done() const { return done_; }

  // Why it cannot go on: the peers it waits for (not yet arrived data, or channels they do not empty).
  std::vector<int> waiting_for() const;
  // The step it waits in, for error messages; -1 if none.
  int step() const;
  const Plan& plan() const { return *plan_; }
  uint64_t seq() const { return seq_; }
  void set_seq(uint64_t seq) { seq_ = seq; }  // before begin(): this call's place in the order of calls
  std::string describe() const;               // "all_reduce #12"
  const GpuCall* gpu() const { return buffers_.gpu.get(); }  // null: arrays in host memory
  // Its own GPU has not come so far; nobody rings when it has.
  bool waits_for_gpu() const { return waits_for_gpu_; }
  // Ranks whose GPUs this rank's GPU waited for in vain (Driver::missing).
  std::vector<int> missing_on_gpu() const { return driver().missing(); }
  // The operation failed: memory that peers may still use becomes this process's own.
  void withdraw();

 private:
  struct Cursor {
    uint32_t sends = 0, receives = 0, started = 0;
  };
  bool move();
  bool send(const LanePlan& lane, Cursor& cursor);
  Error placed(const Error& error) const;
  size_t number(const LanePlan& lane) const { return static_cast<size_t>(&lane - plan_->lanes.data()); }
  Driver& driver() { return gpu_ ? *gpu_ : cpu_; }
  const Driver& driver() const { return gpu_ ? *gpu_ : static_cast<const Driver&>(cpu_); }
  void start_ahead(const LanePlan& lane, Cursor& c, size_t first_slot);
  bool try_send(const LanePlan& lane, const Unit& unit, size_t slot);
  bool try_receive(const LanePlan& lane, const Unit& unit);
  std::byte* answer_due(const LanePlan& lane, const Unit& unit) const;
  size_t release(const LanePlan& lane, const Unit& unit, bool answered);
  void write_answer(const LanePlan& lane, const Unit& unit, const Payload& ask, std::byte* message,
                    bool has_payload);
  std::optional<Loan> loan(const Unit& unit) const;
  Payload borrowed(int peer, const std::byte* message, const Unit& unit) const;
  bool all_taken();
  bool in_place(const LanePlan& lane, const Unit& unit, uint32_t i = 0) const {
    return lane.in_place[unit.first_peer + i] != 0;
  }
  Payload arrived(int peer, const LanePlan& lane, const Unit& unit) const;
  [[noreturn]] void mismatch(int peer, const std::byte* got, const std::byte* expected) const;
  FrameHeader header(const LanePlan& lane, const Unit& unit) const;

  std::shared_ptr<const Plan> plan_;
  Buffers buffers_;
  CpuDriver cpu_;
  std::unique_ptr<Driver> gpu_;  // for arrays on a GPU
  uint64_t seq_ = 0;
  std::array<Cursor, kMaxLanes> cursors_{};
  bool done_ = false, lends_ = false, waits_for_gpu_ = false;
  Transport* transport_ = nullptr;
  Trace* trace_ = nullptr;
  Payload* spans_ = nullptr;          // payloads of the unit at hand, one per peer
  CopyTuner* copy_tuners_ = nullptr;  // one per peer
};

}  // namespace gw
