// What an operation does to values. The executor moves messages; a driver makes the payloads that go into them and takes
// those that arrive, wherever the arrays are: driver_cpu.cpp works on host memory, driver_gpu.cpp on a GPU's, and
// driver_staged.cpp on a copy in host memory of what lies on a GPU. All give the same bytes.
//
// Nothing here waits: what takes time on a GPU is begun, and said to be done later. Called by the driving thread only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/plan.hpp"
#include "comm/staging.hpp"

namespace gw {

// A receive whose messages are all here.
struct Arrival {
  const Unit& unit;
  size_t lane;
  const int* peers;         // unit.peers of them, ascending
  const Payload* payloads;  // theirs
  std::byte* answer;  // recv_reduce: a message that the finished value has to be written over; null: none
};

enum class Taken : uint8_t {
  no,        // not yet: give it again
  yes,       // the payloads are no longer needed
  answered,  // nor does `answer` have to be written: it was
};

class Driver {
 public:
  // Sends of a lane that are begun ahead of their turn, at most; each has a slot of this range, its own until it is sent.
  static constexpr size_t kAhead = 8;

  Driver(const Plan& plan, const Arrays& arrays) : plan_(plan), arrays_(arrays) {}
  virtual ~Driver() = default;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  // Before the first unit. seq: this call's place in the order of calls.
  virtual void begin(Staging& staging, uint64_t seq) = 0;
  // Once per send, in the order of the lane, as soon as `after` allows.
  virtual void start(const Unit&, size_t /*slot*/) {}
  virtual bool ready(const Unit&, size_t /*slot*/) { return true; }
  // When ready: writes the payload; returns its size.
  virtual size_t fill(const Unit& send, size_t slot, std::byte* payload, CopyTuner* tuner) = 0;
  // When ready: the payload, if it lies in host memory as it travels, and need not be written. No data: it has to be.
  virtual Payload ready_made(const Unit& /*send*/) const { return {}; }
  virtual Taken take(const Arrival& arrival) = 0;
  // What a recv_reduce of the lane that was taken has finished, as it travels.
  virtual Payload finished(const Unit& recv_reduce, size_t lane) const = 0;
  // Pays the residual into this rank's own value, in place; what a 16-bit array cannot hold of it stays owed.
  virtual void settle(const Unit& send) = 0;
  // After the last unit, until it says true: all is done, or on its way in the order of the GPU's stream.
  virtual bool finish() { return true; }
  // The operation failed: nothing of it will be asked for any more.
  virtual void abandon() {}
  // Ranks whose GPUs did not do their part in time, and the step that waited for them: finish() will not come true.
  virtual std::vector<int> missing() const { return {}; }
  virtual int missing_in_step() const { return -1; }

 protected:
  // There is nothing to decode, to encode or to pay.
  bool folds_plainly(const Unit& u) const {
    return !plan_.operation.codec || (u.raw && !u.encode && (u.own_frame || !arrays_.residual));
  }
  bool travels_raw(const Unit& u) const { return !plan_.operation.codec || u.raw; }
  // encoder: the rank whose frame it is; a decoder says 0.
  Piece piece(const Unit& u, int encoder) const {
    return {.count = u.count, .first = u.first, .step = seq_, .stream = static_cast<uint32_t>(encoder)};
  }
  const void* input(const Unit& u) const {
    return static_cast<const std::byte*>(arrays_.in) + u.in_offset * size_of(plan_.operation.dtype);
  }
  void* output(const Unit& u) const {
    return (u.staged ? partials_ : static_cast<std::byte*>(arrays_.out)) +
           u.out_offset * size_of(plan_.operation.dtype);
  }
  const void* own_value(const Unit& u) const { return u.from_input ? input(u) : output(u); }
  float* residual(const Unit& u) const { return arrays_.residual ? arrays_.residual + u.in_offset : nullptr; }
  // What has to be added to this rank's value before it is encoded or folded; null: nothing.
  const float* owed(const Unit& u) const {
    return u.from_input || size_of(plan_.operation.dtype) == 2 ? residual(u) : nullptr;
  }

  const Plan& plan_;
  Arrays arrays_;
  uint64_t seq_ = 0;
  std::byte* partials_ = nullptr;
};

}  // namespace gw
