// One direction of one channel between two ranks of a process: a mirror ring, and a waiting room for messages that a
// fault delays.
#pragma once
#include <algorithm>
#include <deque>
#include <mutex>
#include <vector>

#include "transport/fault_link.hpp"
#include "transport/mirror_ring.hpp"

namespace gw {

class InprocWire {
 public:
  using Clock = FaultLink::Clock;

  InprocWire(FaultLink& link, size_t bytes)
      : link_(link),
        map_(MirrorMap::anonymous(bytes)),
        writer_(&control_, map_.data(), bytes),
        reader_(&control_, map_.data(), bytes) {}
  size_t bytes() const { return map_.bytes(); }

  // ---- the sender's side
  std::byte* reserve(size_t bytes) {
    if (!link_.dropped()) return writer_.reserve(bytes);
    // The sender of a broken link notices nothing: there is always room, and what it writes is never looked at.
    if (bytes > map_.bytes()) return nullptr;
    void_.resize(map_.bytes() + kMessageAlign);
    const auto at = reinterpret_cast<uintptr_t>(void_.data());
    return void_.data() + (message_span(at) - at);
  }
  // False if the message is not visible yet, or never will be.
  bool commit(size_t bytes) {
    if (!link_.faulty()) {
      writer_.advance(bytes);
      writer_.publish();
      return true;
    }
    if (link_.dropped()) return false;
    writer_.advance(bytes);
    std::lock_guard lock(mutex_);
    const auto due = late_.empty() ? link_.due_now() : std::max(link_.due_now(), late_.back().due);
    late_.push_back({due, writer_.tail()});
    return false;
  }
  bool room_news() { return writer_.news(); }

  // ---- the receiver's side
  const std::byte* peek(size_t bytes) {
    if (link_.faulty()) release_due();
    return reader_.peek(bytes);
  }
  bool consume(size_t bytes) { return reader_.consume(bytes); }
  bool message_news() {
    if (link_.faulty()) release_due();
    return reader_.news();
  }
  Clock::time_point next_due() {
    if (!link_.faulty()) return Clock::time_point::max();
    std::lock_guard lock(mutex_);
    return late_.empty() || link_.dropped() ? Clock::time_point::max() : late_.front().due;
  }

 private:
  struct Late {
    Clock::time_point due;
    uint64_t tail;
  };
  void release_due() {
    std::lock_guard lock(mutex_);
    while (!late_.empty() && !link_.dropped() && late_.front().due <= Clock::now()) {
      control_.tail.store(late_.front().tail, std::memory_order_seq_cst);
      late_.pop_front();
    }
  }

  FaultLink& link_;
  MirrorMap map_;
  RingControl control_;
  // each thread's own line: they are written with every message
  alignas(kLinePair) RingWriter writer_;
  alignas(kLinePair) RingReader reader_;
  alignas(kLinePair) std::vector<std::byte> void_;
  std::mutex mutex_;
  std::deque<Late> late_;
};

}  // namespace gw
