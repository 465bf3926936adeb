// What the executor did when, for a timeline. Off: one branch per unit.
#pragma once
#include <chrono>
#include <cstdint>
#include <vector>

namespace gw {

struct TraceEvent {
  const char* name;  // "encode+send", "reduce", "recv", "operation"
  std::chrono::steady_clock::time_point start, end;
  uint64_t seq;
  int peer, chunk, segment;  // -1: none
  uint64_t bytes;
};

// Written by the driving thread only; a full buffer drops further events and counts them.
class Trace {
 public:
  void start(size_t capacity) {
    events_.clear();
    events_.reserve(capacity);
    dropped_ = 0;
    on_ = true;
  }
  std::vector<TraceEvent> stop() {
    on_ = false;
    return std::move(events_);
  }
  bool on() const { return on_; }
  uint64_t dropped() const { return dropped_; }
  void add(const TraceEvent& e) {
    if (!on_) return;
    if (events_.size() == events_.capacity())
      ++dropped_;
    else
      events_.push_back(e);
  }

 private:
  std::vector<TraceEvent> events_;
  uint64_t dropped_ = 0;
  bool on_ = false;
};

}  // namespace gw
