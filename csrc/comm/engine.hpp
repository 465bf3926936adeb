// Who runs what, when: queues of operations, and one driving thread at a time. A synchronous call on an idle
// communicator drives itself; otherwise a worker thread, started at the first need, drives what is queued.
//
// Streams: collectives form one, in the order of calls; so do the sends to each peer and the receives from each peer.
// The first operation of every stream is active; active operations advance side by side.
#pragma once
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/config.hpp"
#include "comm/pause.hpp"
#include "comm/watchdog.hpp"
#include "comm/work.hpp"

namespace gw {

class Engine {
 public:
  Engine(std::unique_ptr<Transport> transport, uint32_t epoch, const Config& config);
  ~Engine();

  // Runs `work` to its end on this thread if possible. Throws its error.
  void run(Work& work);
  void submit(std::shared_ptr<Work> work);
  // Ends every operation, here and on all peers, with Error(aborted). Any thread; idempotent.
  void abort(const std::string& reason);
  // Says goodbye. Operations still in flight end with Error(closed). Any thread; idempotent.
  void close();

  Transport& transport() { return *transport_; }
  void trace_start(size_t events);
  std::vector<TraceEvent> trace_stop();
  // Memory that operations pass through, at most: the channels, and what encoding and forwarding have needed so far.
  size_t staging_bytes() const;
  uint64_t operations() const { return operations_.load(std::memory_order_relaxed); }

 private:
  struct Stream {
    WorkQueue queue;
    Staging staging;
    uint64_t next_seq = 0;
  };
  void number(Work& work);   // its stream and place in it; holding mutex_
  void enqueue(Work& work);  // holding mutex_
  void begin(Work& work);
  // From here its time counts. A call that never waits for a millisecond does without: 30 of 395 ns on one rank.
  void set_clock(Work& work);
  // The fast path: an operation that nobody else can see needs no queue. False: others have come, go on with drive().
  bool drive_alone(Work& work);
  void adopt(Work& work);  // into the queues after all
  void drive(const Work* until);
  void accept();
  bool advance();
  bool waits_for_gpu() const;
  void count(const Work& work);
  void retire(Work& work, std::optional<Error> error);
  void fail(const Error& error);
  void work_loop();
  void wake_worker();  // holding mutex_
  template <class F>
  void as_driver(F&& f);

  std::unique_ptr<Transport> transport_;
  Watchdog watchdog_;
  Pause pause_;
  Trace trace_;

  // Touched by the driving thread only.
  std::vector<Stream> streams_;
  std::vector<Work*> active_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool driving_ = false, stopping_ = false, closed_ = false;
  std::optional<Error> broken_;
  WorkQueue incoming_;
  std::thread worker_;
  std::atomic<bool> has_incoming_ = false, abort_requested_ = false;
  std::atomic<size_t> pending_ = 0;
  std::atomic<uint64_t> operations_ = 0;
  std::optional<Error> abort_error_;  // under mutex_
};

}  // namespace gw
