#include "comm/engine.hpp"

#include <algorithm>

namespace gw {

Engine::Engine(std::unique_ptr<Transport> transport, uint32_t epoch, const Config& config)
    : transport_(std::move(transport)),
      watchdog_(*transport_, epoch),
      pause_(config, transport_->ranks_on_this_machine(), std::thread::hardware_concurrency()),
      streams_(1 + 2 * static_cast<size_t>(transport_->size())) {}

Engine::~Engine() { close(); }

// ---- submitting --------------------------------------------------------------------------------------------------

void Engine::number(Work& work) {
  if (broken_) throw *broken_;
  const Operation& op = work.executor.plan().operation;
  work.stream = 0;
  if (op.collective == Collective::send) work.stream = 1 + op.peer;
  if (op.collective == Collective::recv) work.stream = 1 + transport_->size() + op.peer;
  work.executor.set_seq(streams_[static_cast<size_t>(work.stream)].next_seq++);
}

void Engine::enqueue(Work& work) {
  number(work);
  work.submitted = Work::Clock::now();
  incoming_.push(work);
  pending_.fetch_add(1, std::memory_order_relaxed);
  has_incoming_.store(true, std::memory_order_release);
}

void Engine::run(Work& work) {
  bool alone;
  {
    std::unique_lock lock(mutex_);
    if (driving_) {
      enqueue(work);
      lock.unlock();
      transport_->ring();
      work.wait();
      return;
    }
    alone = pending_.load(std::memory_order_relaxed) == 0;
    if (alone)
      number(work);
    else
      enqueue(work);
    driving_ = true;
  }
  alone = alone && drive_alone(work);
  if (!alone) drive(&work);
  {
    std::lock_guard lock(mutex_);
    driving_ = false;
    if (pending_.load(std::memory_order_relaxed)) wake_worker();
    if (stopping_) changed_.notify_all();
  }
  if (!alone) work.wait();
}

void Engine::submit(std::shared_ptr<Work> work) {
  std::lock_guard lock(mutex_);
  work->self = work;
  try {
    enqueue(*work);
  } catch (...) {
    work->self.reset();
    throw;
  }
  if (driving_)
    transport_->ring();
  else
    wake_worker();
}

void Engine::wake_worker() {
  if (!worker_.joinable() && !stopping_) worker_ = std::thread([this] { work_loop(); });
  changed_.notify_all();
}

void Engine::work_loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock,
                  [this] { return stopping_ || (!driving_ && pending_.load(std::memory_order_relaxed)); });
    if (stopping_) return;
    driving_ = true;
    lock.unlock();
    drive(nullptr);
    lock.lock();
    driving_ = false;
  }
}

// ---- driving -----------------------------------------------------------------------------------------------------

void Engine::begin(Work& work) {
  work.executor.begin(*transport_, streams_[static_cast<size_t>(work.stream)].staging, trace_);
}

void Engine::set_clock(Work& work) {
  work.started = Work::Clock::now();
  work.deadline = Deadline::from(work.started, work.timeout);
}

bool Engine::drive_alone(Work& work) {
  Work* const active[] = {&work};
  try {
    if (trace_.on()) set_clock(work);
    begin(work);
    pause_.reset();
    for (;;) {
      const bool moved = work.executor.advance();
      if (work.executor.done()) break;
      if (has_incoming_.load(std::memory_order_acquire) || abort_requested_.load(std::memory_order_acquire)) {
        adopt(work);
        return false;
      }
      if (moved || transport_->progress()) {
        pause_.reset();
      } else if (pause_.turn(*transport_, work.executor.waits_for_gpu())) {
        if (!work.deadline) set_clock(work);
        watchdog_.check(active);
      }
    }
  } catch (const Error& e) {
    adopt(work);
    fail(e);
    return false;
  } catch (const std::exception& e) {
    adopt(work);
    fail(Error(ErrorKind::internal, std::string("unexpected: ") + e.what()));
    return false;
  }
  count(work);
  return true;
}

void Engine::adopt(Work& work) {
  if (!work.deadline) set_clock(work);
  streams_[static_cast<size_t>(work.stream)].queue.push(work);
  active_.push_back(&work);
  pending_.fetch_add(1, std::memory_order_relaxed);
}

void Engine::drive(const Work* until) {
  pause_.reset();
  for (;;) {
    try {
      if (has_incoming_.load(std::memory_order_acquire)) accept();
      if (abort_requested_.load(std::memory_order_acquire)) {
        std::optional<Error> error;
        {
          std::lock_guard lock(mutex_);
          error = abort_error_;
        }
        throw Error(*error);
      }
      const bool moved = advance();
      if (until ? until->done() : pending_.load(std::memory_order_acquire) == 0) return;
      if (moved || transport_->progress())
        pause_.reset();
      else if (pause_.turn(*transport_, waits_for_gpu()))
        watchdog_.check(active_);
    } catch (const Error& e) {
      fail(e);
    } catch (const std::exception& e) {
      fail(Error(ErrorKind::internal, std::string("unexpected: ") + e.what()));
    }
  }
}

void Engine::accept() {
  std::lock_guard lock(mutex_);
  while (!incoming_.empty()) {
    Work& work = incoming_.pop();
    WorkQueue& queue = streams_[static_cast<size_t>(work.stream)].queue;
    if (queue.empty()) active_.push_back(&work);
    queue.push(work);
  }
  has_incoming_.store(false, std::memory_order_relaxed);
}

bool Engine::advance() {
  bool moved = false;
  for (size_t i = 0; i < active_.size();) {
    Work& work = *active_[i];
    Stream& stream = streams_[static_cast<size_t>(work.stream)];
    if (!work.deadline) {
      set_clock(work);
      begin(work);
    }
    moved = work.executor.advance() || moved;
    if (!work.executor.done()) {
      ++i;
      continue;
    }
    moved = true;
    stream.queue.pop();
    if (stream.queue.empty())
      active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(i));
    else
      active_[i++] = stream.queue.front();
    retire(work, std::nullopt);
  }
  return moved;
}

bool Engine::waits_for_gpu() const {
  return std::ranges::any_of(active_, [](const Work* work) { return work->executor.waits_for_gpu(); });
}

void Engine::count(const Work& work) {
  if (trace_.on())
    trace_.add({name(work.executor.plan().operation.collective).data(), work.started, Work::Clock::now(),
                work.executor.seq(), -1, -1, -1, 0});
  operations_.store(operations_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

void Engine::retire(Work& work, std::optional<Error> error) {
  count(work);
  const auto keep = std::move(work.self);  // dropped last
  pending_.fetch_sub(1, std::memory_order_release);
  work.finish(std::move(error));
}

// The first error wins: everything queued ends with it, and so does every later call.
void Engine::fail(const Error& error) {
  watchdog_.announce(error);
  transport_->progress();
  std::vector<Work*> doomed;
  {
    std::lock_guard lock(mutex_);
    if (!broken_) broken_ = error;
    abort_requested_.store(false, std::memory_order_relaxed);
    const auto doom = [&](WorkQueue& queue) {
      while (!queue.empty()) doomed.push_back(&queue.pop());
    };
    for (Stream& s : streams_) doom(s.queue);
    doom(incoming_);
    has_incoming_.store(false, std::memory_order_relaxed);
  }
  active_.clear();
  for (Work* work : doomed) {
    work->executor.withdraw();
    retire(*work, error);
  }
}

size_t Engine::staging_bytes() const {
  size_t bytes = transport_->staging_bytes();
  for (const Stream& s : streams_) bytes += s.staging.bytes();
  return bytes;
}

// ---- ending --------------------------------------------------------------------------------------------------------

// Runs f as the driver if nobody drives; otherwise asks the driver to stop and waits until it has.
template <class F>
void Engine::as_driver(F&& f) {
  std::unique_lock lock(mutex_);
  while (driving_) {
    transport_->ring();
    changed_.wait_for(lock, std::chrono::milliseconds(1), [this] { return !driving_; });
  }
  driving_ = true;
  lock.unlock();
  f();
  lock.lock();
  driving_ = false;
  changed_.notify_all();
}

void Engine::abort(const std::string& reason) {
  const Error error(
      ErrorKind::aborted,
      "the communicator was aborted on rank " + std::to_string(transport_->rank()) + ": " + reason,
      {.rank = transport_->rank(), .peer = transport_->rank(), .host = transport_->host(transport_->rank())});
  {
    std::lock_guard lock(mutex_);
    if (broken_ || closed_) return;
    if (driving_) {
      abort_error_ = error;
      abort_requested_.store(true, std::memory_order_release);
      transport_->ring();
      return;
    }
  }
  as_driver([&] { fail(error); });
}

void Engine::close() {
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    const Error error(ErrorKind::closed, "the communicator is closed", {.rank = transport_->rank()});
    if (driving_ || pending_.load(std::memory_order_relaxed)) {
      abort_error_ = error;
      abort_requested_.store(true, std::memory_order_release);
      transport_->ring();
    } else if (!broken_ || broken_->kind() != ErrorKind::closed) {
      broken_ = error;
    }
  }
  as_driver([&] {
    if (pending_.load(std::memory_order_relaxed))
      fail(Error(ErrorKind::closed, "the communicator is closed", {.rank = transport_->rank()}));
  });
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    broken_ = Error(ErrorKind::closed, "the communicator is closed", {.rank = transport_->rank()});
  }
  changed_.notify_all();
  if (worker_.joinable()) worker_.join();
  transport_->close();
}

void Engine::trace_start(size_t events) {
  as_driver([&] { trace_.start(events); });
}

std::vector<TraceEvent> Engine::trace_stop() {
  std::vector<TraceEvent> events;
  as_driver([&] { events = trace_.stop(); });
  return events;
}

}  // namespace gw
