#include "comm/work.hpp"

#include "comm/gpu_call.hpp"

namespace gw {

void Work::wait(std::optional<Deadline> until) {
  // Always under the lock, also when done() is already true: finish() may still be holding it.
  std::unique_lock lock(mutex_);
  const auto is_done = [this] { return done(); };
  if (!until) {
    changed_.wait(lock, is_done);  // bounded: the driving thread enforces the operation's own deadline
  } else if (!changed_.wait_until(lock, until->at(), is_done)) {
    const Operation& op = executor.plan().operation;
    throw Error(
        ErrorKind::timeout, executor.describe() + " is not done yet; it goes on, and can be waited for again",
        {.rank = executor.plan().rank, .op = std::string(name(op.collective)), .seq = executor.seq()});
  }
  if (error_) throw *error_;
}

bool Work::over() const noexcept {
  const GpuCall* gpu = executor.gpu();
  return done() && (!gpu || gpu->passed());
}

void Work::order(std::optional<void*> later) const {
  if (const GpuCall* gpu = executor.gpu()) gpu->hold_back(later.value_or(gpu->stream));
}

int Work::device() const {
  const GpuCall* gpu = executor.gpu();
  return gpu ? gpu->device : -1;
}

void Work::finish(std::optional<Error> error) {
  finished = Clock::now();
  // Under the lock, and nothing of *this is touched after it: the waiter may destroy the Work as soon as it sees done.
  std::lock_guard lock(mutex_);
  error_ = std::move(error);
  done_.store(true, std::memory_order_release);
  changed_.notify_all();
}

}  // namespace gw
