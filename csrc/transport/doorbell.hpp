// How a rank sleeps until a peer has done something, without ever missing it.
//
//   peer:     publish a position;  if (sleeping) wake
//   sleeper:  sleeping = 1;  note the counter;  look at every position once more;  wait while the counter is unchanged
//
// All four are seq_cst, so either the peer sees `sleeping`, or the sleeper sees the position. The counter closes the
// gap between the last look and the wait: the kernel compares it under its own lock.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/deadline.hpp"
#include "transport/mirror_ring.hpp"

namespace gw {

// Lives in memory shared by all ranks of a host. All zeros is a fresh bell.
class Doorbell {
 public:
  // Called by peers after publishing. One load of a line that hardly ever changes, if nobody sleeps.
  void ring_if_sleeping() {
    if (sleeping_.load(std::memory_order_seq_cst)) [[unlikely]]
      wake();
  }
  // For what leaves no trace in a ring (a control notice, a new operation): ends this sleep, or else the next one.
  void poke() {
    poked_.store(1, std::memory_order_seq_cst);
    ring_if_sleeping();
  }

  // `news()` says whether anything moved since the caller last looked. False: time passed and nothing happened.
  template <class News>
  bool sleep(Deadline until, News&& news) {
    sleeping_.store(1, std::memory_order_seq_cst);
    const uint32_t counter = counter_.load(std::memory_order_seq_cst);
    const bool poked = poked_.exchange(0, std::memory_order_seq_cst) != 0;
    // news() also when poked: it takes note of what it saw, which saves a vain wake-up
    const bool woken = news() || poked || wait(counter, until);
    sleeping_.store(0, std::memory_order_seq_cst);
    return woken;
  }

 private:
  void wake();
  bool wait(uint32_t counter, Deadline until);

  alignas(kLinePair) std::atomic<uint32_t> sleeping_{0};
  alignas(kLinePair) std::atomic<uint32_t> counter_{0};
  std::atomic<uint32_t> poked_{0};
};

}  // namespace gw
