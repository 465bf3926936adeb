#include "transport/doorbell.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <ctime>

namespace gw {
namespace {
// Not the private kind: the word is shared between processes.
long futex(std::atomic<uint32_t>* word, int operation, uint32_t value, const timespec* timeout) {
  return ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, timeout, nullptr, 0);
}
}  // namespace

void Doorbell::wake() {
  // Of several peers, one pays for the system call; the sleeper looks at everybody's positions when it is awake.
  if (!sleeping_.exchange(0, std::memory_order_seq_cst)) return;
  counter_.fetch_add(1, std::memory_order_seq_cst);
  futex(&counter_, FUTEX_WAKE, INT_MAX, nullptr);
}

bool Doorbell::wait(uint32_t counter, Deadline until) {
  const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(until.left()).count();
  if (left <= 0) return false;
  timespec timeout{};
  timeout.tv_sec = static_cast<time_t>(left / 1'000'000'000);
  timeout.tv_nsec = static_cast<long>(left % 1'000'000'000);
  return futex(&counter_, FUTEX_WAIT, counter, &timeout) == 0 || errno != ETIMEDOUT;
}

}  // namespace gw
