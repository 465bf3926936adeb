// One direction of one channel between two ranks of a process: a mirror ring, and waiting rooms for what a fault delays:
// messages on their way there, answers on their way back.
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

  InprocWire(FaultLink& there, FaultLink& back, size_t bytes)
      : there_(there),
        back_(back),
        map_(MirrorMap::anonymous(bytes)),
        writer_(&control_, map_.data(), bytes),
        reader_(&control_, map_.data(), bytes) {}
  size_t bytes() const { return map_.bytes(); }

  // ---- the sender's side
  std::byte* reserve(size_t bytes) {
    if (!there_.dropped()) return writer_.reserve(bytes);
    // The sender of a broken link notices nothing: there is always room, and what it writes is never looked at.
    if (bytes > map_.bytes()) return nullptr;
    void_.resize(map_.bytes() + kMessageAlign);
    const auto at = reinterpret_cast<uintptr_t>(void_.data());
    return void_.data() + (message_span(at) - at);
  }
  // False if the message is not visible yet, or never will be.
  bool commit(size_t bytes) {
    if (there_.dropped()) return false;
    writer_.advance(bytes);
    return publish();
  }
  bool ask(size_t bytes) {
    if (there_.dropped()) return false;
    writer_.advance_ask(bytes);
    return publish();
  }
  const std::byte* peek_answer(size_t bytes) {
    release_due();
    return writer_.peek_answer(bytes);
  }
  void consume_answer(size_t bytes) { writer_.consume_answer(bytes); }
  bool taken() { return there_.dropped() || writer_.taken(); }
  bool room_news() {
    release_due();
    return writer_.news();
  }
  Clock::time_point next_answer_due() { return answers_.next_due(back_); }

  // ---- the receiver's side
  const std::byte* peek(size_t bytes) {
    release_due();
    return reader_.peek(bytes);
  }
  bool consume(size_t bytes) { return reader_.consume(bytes); }
  std::byte* answer_slot() { return reader_.at_head(); }
  // False if the answer is not visible yet, or never will be.
  bool answer(size_t bytes) {
    if (!back_.faulty()) {
      reader_.consume(bytes);
      return true;
    }
    const uint64_t head = reader_.skip(bytes);
    if (!back_.dropped()) answers_.add(back_, head);
    return false;
  }
  bool message_news() {
    release_due();
    return reader_.news();
  }
  Clock::time_point next_due() { return messages_.next_due(there_); }

 private:
  // Positions that become visible by the clock.
  class WaitingRoom {
   public:
    void add(const FaultLink& link, uint64_t position) {
      std::lock_guard lock(mutex_);
      const auto due = late_.empty() ? link.due_now() : std::max(link.due_now(), late_.back().due);
      late_.push_back({due, position});
    }
    void release_due(const FaultLink& link, std::atomic<uint64_t>& position) {
      if (!link.faulty()) return;
      std::lock_guard lock(mutex_);
      while (!late_.empty() && !link.dropped() && late_.front().due <= Clock::now()) {
        position.store(late_.front().position, std::memory_order_seq_cst);
        late_.pop_front();
      }
    }
    Clock::time_point next_due(const FaultLink& link) {
      if (!link.faulty()) return Clock::time_point::max();
      std::lock_guard lock(mutex_);
      return late_.empty() || link.dropped() ? Clock::time_point::max() : late_.front().due;
    }

   private:
    struct Late {
      Clock::time_point due;
      uint64_t position;
    };
    std::mutex mutex_;
    std::deque<Late> late_;
  };

  bool publish() {
    if (!there_.faulty()) {
      writer_.publish();
      return true;
    }
    messages_.add(there_, writer_.tail());
    return false;
  }
  void release_due() {
    messages_.release_due(there_, control_.tail);
    answers_.release_due(back_, control_.head);
  }

  FaultLink &there_, &back_;
  MirrorMap map_;
  RingControl control_;
  // each thread's own line: they are written with every message
  alignas(kLinePair) RingWriter writer_;
  alignas(kLinePair) RingReader reader_;
  alignas(kLinePair) std::vector<std::byte> void_;
  WaitingRoom messages_, answers_;
};

}  // namespace gw
