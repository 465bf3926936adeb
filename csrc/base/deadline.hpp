// Every wait takes a Deadline: a point on the monotonic clock.
#pragma once
#include <algorithm>
#include <chrono>

namespace gw {

class Deadline {
 public:
  using Clock = std::chrono::steady_clock;
  using Duration = Clock::duration;

  static Deadline after(Duration d) { return from(Clock::now(), d); }
  static Deadline from(Clock::time_point now, Duration d) {
    // saturate: "a very long time" must not wrap into the past
    return Deadline(d > Clock::time_point::max() - now ? Clock::time_point::max() : now + d);
  }
  static Deadline after_seconds(double s) { return after(duration(s)); }
  static Duration duration(double seconds) {
    constexpr double kForever = 1e9;
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(std::min(seconds, kForever)));
  }
  bool passed() const { return Clock::now() >= at_; }
  Duration left() const { return std::max(Duration::zero(), at_ - Clock::now()); }
  Clock::time_point at() const { return at_; }
  Deadline sooner(Deadline other) const { return Deadline(std::min(at_, other.at_)); }

 private:
  explicit Deadline(Clock::time_point at) : at_(at) {}
  Clock::time_point at_;
};

}  // namespace gw
