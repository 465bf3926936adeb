// What may go wrong on the way from one in-process rank to another, and the notices on that way. Shared by the hub
// (which injects faults), the sender and the receiver.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <mutex>

#include "transport/transport.hpp"

namespace gw {

class FaultLink {
 public:
  using Clock = Deadline::Clock;
  enum class Event : uint8_t { notice, left, lost };

  void delay(Clock::duration d) {
    delay_.store(d.count(), std::memory_order_relaxed);
    faulty_.store(true, std::memory_order_release);
  }
  void drop() {
    dropped_.store(true, std::memory_order_relaxed);
    faulty_.store(true, std::memory_order_release);
  }
  // False until the first fault: the fast path of every message.
  bool faulty() const { return faulty_.load(std::memory_order_acquire); }
  bool dropped() const { return dropped_.load(std::memory_order_relaxed); }
  Clock::time_point due_now() const {
    return Clock::now() + Clock::duration(delay_.load(std::memory_order_relaxed));
  }

  void post(Event event, const ControlMessage& message = {}) {
    if (dropped()) return;
    std::lock_guard lock(mutex_);
    // a shorter delay never lets a later notice overtake an earlier one
    const auto due = queue_.empty() ? due_now() : std::max(due_now(), queue_.back().due);
    queue_.push_back({due, event, message});
    waiting_.store(queue_.size(), std::memory_order_release);
  }
  // The next thing that is due, if it is a notice; a change of state is taken note of on the way.
  bool receive(ControlMessage& message, PeerState& state) {
    if (!waiting_.load(std::memory_order_acquire)) return false;
    std::lock_guard lock(mutex_);
    while (!queue_.empty() && !dropped() && queue_.front().due <= Clock::now()) {
      const Entry entry = queue_.front();
      queue_.pop_front();
      waiting_.store(queue_.size(), std::memory_order_release);
      if (entry.event == Event::notice) {
        message = entry.message;
        return true;
      }
      state = entry.event == Event::left ? PeerState::left : PeerState::lost;
    }
    return false;
  }
  Clock::time_point next_due() {
    std::lock_guard lock(mutex_);
    return queue_.empty() || dropped() ? Clock::time_point::max() : queue_.front().due;
  }

 private:
  struct Entry {
    Clock::time_point due;
    Event event;
    ControlMessage message;
  };
  std::atomic<bool> faulty_{false}, dropped_{false};
  std::atomic<Clock::rep> delay_{0};
  std::atomic<size_t> waiting_{0};
  std::mutex mutex_;
  std::deque<Entry> queue_;
};

}  // namespace gw
