// One operation on its way: what it does, until when, and how it ended.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>

#include "base/deadline.hpp"
#include "base/error.hpp"
#include "comm/executor.hpp"

namespace gw {

class Work {
 public:
  using Clock = std::chrono::steady_clock;

  Work(std::shared_ptr<const Plan> plan, const Buffers& buffers, Deadline::Duration patience)
      : executor(std::move(plan), buffers), timeout(patience) {}

  // Any thread.
  bool done() const { return done_.load(std::memory_order_acquire); }
  // Done, and so is the GPU: nothing reads or writes the arrays any more.
  bool over() const noexcept;
  // Returns when done, throwing the operation's error if it failed; throws Error(timeout) if `deadline` comes first
  // (the operation goes on under its own deadline).
  void wait(std::optional<Deadline> deadline = std::nullopt);

  // Once done: what is put on `later` from now on, by default the stream of the caller's at the call, runs after the operation.
  // Nothing for arrays in host memory.
  void order(std::optional<void*> later = std::nullopt) const;
  int device() const;  // -1: host memory

  // The driving thread.
  void finish(std::optional<Error> error = std::nullopt);

  Executor executor;
  Deadline::Duration timeout;
  std::optional<Deadline> deadline;  // set when the operation starts: waiting in the queue does not count
  Clock::time_point submitted{}, started{}, finished{};
  int stream = 0;
  std::shared_ptr<Work> self;  // keeps an asynchronous operation alive while it is queued
  Work* next = nullptr;        // in the WorkQueue that it is in

 private:
  std::atomic<bool> done_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Error> error_;
};

// Operations in the order of calls. They link themselves, so that queueing one allocates nothing.
class WorkQueue {
 public:
  bool empty() const { return !first_; }
  Work* front() const { return first_; }
  void push(Work& work) {
    work.next = nullptr;
    (first_ ? last_->next : first_) = &work;
    last_ = &work;
  }
  Work& pop() {
    Work& work = *first_;
    first_ = work.next;
    return work;
  }

 private:
  Work *first_ = nullptr, *last_ = nullptr;
};

}  // namespace gw
