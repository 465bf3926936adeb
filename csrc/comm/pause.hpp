// How a thread waits when nothing can move: spin, then yield, then sleep until a peer rings. Spinning answers in
// 0.1-0.5 us where a futex takes 30-70 us (measured on two cores, 2026-11), but steals the core from whoever could make
// the progress it waits for; so it is short, and absent when ranks outnumber cores.
#pragma once
#include <sched.h>

#include <chrono>

#include "base/config.hpp"
#include "base/deadline.hpp"
#include "transport/transport.hpp"

namespace gw {

class Pause {
 public:
  using Clock = std::chrono::steady_clock;

  Pause(const Config& config, int ranks_on_this_machine, unsigned cores)
      : spin_(static_cast<unsigned>(ranks_on_this_machine) > cores
                  ? std::chrono::nanoseconds(0)
                  : std::chrono::nanoseconds(static_cast<int64_t>(config.spin_us * 1000))) {}

  void reset() { turns_ = 0; }

  // One turn of waiting. True now and then: time to run the watchdog. on_gpu: for a GPU, which does not ring.
  bool turn(Transport& transport, bool on_gpu) {
    constexpr unsigned kCheapTurns = 64;  // before the clock is read at all
    constexpr unsigned kEager =
        16;  // before the first pause: 50 ns each on this CPU, a third of a round trip
    if (turns_++ < kCheapTurns && spin_.count()) {
      if (turns_ > kEager) relax();
      return false;
    }
    const auto now = Clock::now();
    if (turns_ <= kCheapTurns + 1 || since_ == Clock::time_point{}) {
      since_ = checked_ = now;
      turns_ = kCheapTurns + 2;
    }
    const auto waited = now - since_;
    if (waited < spin_) {
      // The peer may be waiting for this very core: the scheduler can put both there although another is idle.
      constexpr unsigned kOffer = 16;
      if (turns_ % kOffer == 0)
        sched_yield();
      else
        relax();
    } else if (waited < spin_ + kYield) {
      sched_yield();
    } else {
      transport.sleep(Deadline::after(on_gpu ? kShortNap : kNap));
    }
    if (now - checked_ < kCheck) return false;
    checked_ = now;
    return true;
  }

 private:
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
  static constexpr auto kYield = std::chrono::microseconds(200);
  static constexpr std::chrono::microseconds kNap{5000}, kShortNap{50};
  static constexpr auto kCheck = std::chrono::milliseconds(1);
  const std::chrono::nanoseconds spin_;
  unsigned turns_ = 0;
  Clock::time_point since_{}, checked_{};
};

}  // namespace gw
