#include "cusim/block.hpp"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

#include "cusim/fiber.hpp"

namespace cusim {
namespace {

constexpr size_t kStack = size_t{64} << 10;
constexpr unsigned kWarp = 32;

enum class At : uint8_t { running, barrier, exchange, spin, done };

struct Thread {
  At at = At::running;
  uint32_t mask = 0;
  int operation = 0;
  uint64_t value = 0;
  self::Lanes received;
};

class Block;
thread_local Block* current = nullptr;
// Stacks are kept from block to block: mapping 256 of them takes longer than most kernels.
thread_local std::vector<std::unique_ptr<Fiber>> fibers;

class Block {
 public:
  Block(const Kernel& kernel, long index, const std::atomic<bool>& stop)
      : kernel_(kernel),
        stop_(stop),
        index_{static_cast<unsigned>(index % kernel.grid.x),
               static_cast<unsigned>(index / kernel.grid.x % kernel.grid.y),
               static_cast<unsigned>(index / (static_cast<long>(kernel.grid.x) * kernel.grid.y))},
        threads_(size_t{kernel.block.x} * kernel.block.y * kernel.block.z),
        order_(threads_.size()),
        random_(settings().seed + 7919u * static_cast<unsigned>(index)) {
    std::iota(order_.begin(), order_.end(), 0u);
    while (fibers.size() < threads_.size())
      fibers.push_back(std::make_unique<Fiber>(kStack, &fiber_body, nullptr));
  }

  void run() {
    current = this;
    size_t done = 0;
    long spins = 0;
    while (done < threads_.size()) {
      const Order order = settings().order;
      if (order == Order::random) std::shuffle(order_.begin(), order_.end(), random_);
      bool ran = false, spun = false;
      for (size_t i = 0; i < order_.size(); ++i) {
        const unsigned t = order == Order::reverse ? order_[order_.size() - 1 - i] : order_[i];
        Thread& thread = threads_[t];
        if (thread.at == At::spin) {
          spun = true;
          thread.at = At::running;
        }
        if (thread.at != At::running) continue;
        ran = true;
        active_ = t;
        fibers[t]->resume();
        if (failure_) std::rethrow_exception(failure_);
        done += thread.at == At::done;
      }
      if (spun) {
        sched_yield();
        if (stop_) throw Error("stopped: another block of the launch failed");
        if (++spins > settings().spins) throw Error("deadlock: a block waits for a signal that never comes");
      }
      const bool released = release_warps();
      if (!released && !spun && !release_barrier(done) && !ran && done < threads_.size())
        throw Error("deadlock inside a block: its threads wait for one another");
    }
    current = nullptr;
  }

  // ---- from inside a kernel
  Dim3 thread_index() const {
    const Dim3& d = kernel_.block;
    return {active_ % d.x, active_ / d.x % d.y, active_ / (d.x * d.y)};
  }
  Dim3 index() const { return index_; }
  const Kernel& kernel() const { return kernel_; }
  unsigned lane() const { return active_ % kWarp; }
  void wait(At at) {
    threads_[active_].at = at;
    fibers[active_]->yield();
  }
  const self::Lanes& exchange(uint32_t mask, int operation, uint64_t value) {
    if (!(mask >> lane() & 1)) throw Error("a lane calls a warp operation whose mask leaves it out");
    Thread& t = threads_[active_];
    t.mask = mask;
    t.operation = operation;
    t.value = value;
    wait(At::exchange);
    return t.received;
  }
  void* shared(size_t bytes, size_t alignment) {
    if (!shared_) {
      shared_bytes_ = bytes;
      shared_.reset(
          static_cast<char*>(std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)));
      std::memset(shared_.get(), 0xcd, bytes);
    }
    if (bytes != shared_bytes_) throw Error("a kernel asks for two sizes of shared memory");
    return shared_.get();
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };

  static void fiber_body(void*) {
    for (;;) {
      Block* block = current;
      const unsigned me = block->active_;
      try {
        block->kernel_.run(block->kernel_.arguments);
      } catch (...) {
        block->failure_ = std::current_exception();
      }
      block->threads_[me].at = At::done;
      fibers[me]->yield();
    }
  }

  bool release_barrier(size_t done) {
    const auto waiting = static_cast<size_t>(
        std::ranges::count_if(threads_, [](const Thread& t) { return t.at == At::barrier; }));
    if (waiting == 0 || waiting + done < threads_.size()) return false;
    if (done)
      throw Error("__syncthreads: " + std::to_string(done) + " threads of the block have ended and miss it");
    for (Thread& t : threads_) t.at = At::running;
    return true;
  }

  bool release_warps() {
    bool any = false;
    for (size_t first = 0; first < threads_.size(); first += kWarp) {
      const size_t lanes = std::min<size_t>(kWarp, threads_.size() - first);
      for (size_t l = 0; l < lanes; ++l)
        if (threads_[first + l].at == At::exchange && complete(first, lanes, threads_[first + l])) {
          hand_over(first, lanes, threads_[first + l].mask);
          any = true;
        }
    }
    return any;
  }
  bool complete(size_t first, size_t lanes, const Thread& asks) const {
    for (size_t l = 0; l < kWarp; ++l) {
      if (!(asks.mask >> l & 1)) continue;
      if (l >= lanes) {
        if (asks.mask == ~0u) continue;
        throw Error("a warp operation names a lane that does not exist");
      }
      const Thread& other = threads_[first + l];
      if (other.at == At::done) throw Error("a warp operation waits for a lane that has ended");
      if (other.at == At::barrier)
        throw Error("a warp operation waits for a lane that waits at __syncthreads");
      if (other.at != At::exchange) return false;
      if (other.mask != asks.mask || other.operation != asks.operation)
        throw Error("lanes of a warp meet at different operations or masks");
    }
    return true;
  }
  void hand_over(size_t first, size_t lanes, uint32_t mask) {
    self::Lanes all{};
    for (size_t l = 0; l < lanes; ++l) all.value[l] = threads_[first + l].value;
    for (size_t l = 0; l < lanes; ++l)
      if (mask >> l & 1) {
        threads_[first + l].received = all;
        threads_[first + l].at = At::running;
      }
  }

  const Kernel& kernel_;
  const std::atomic<bool>& stop_;
  const Dim3 index_;
  std::vector<Thread> threads_;
  std::vector<unsigned> order_;
  std::mt19937 random_;
  unsigned active_ = 0;
  std::exception_ptr failure_;
  std::unique_ptr<char, Free> shared_;
  size_t shared_bytes_ = 0;
};

}  // namespace

Settings& settings() {
  static Settings s;
  return s;
}

void run(const Kernel& kernel) {
  const long blocks = static_cast<long>(kernel.grid.x) * kernel.grid.y * kernel.grid.z;
  std::atomic<long> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto worker = [&] {
    for (long i; !stop && (i = next++) < blocks;) {
      const long index = settings().order == Order::reverse && !kernel.together ? blocks - 1 - i : i;
      try {
        Block(kernel, index, stop).run();
      } catch (...) {
        fibers.clear();  // those of the failed block stand in the middle of it
        current = nullptr;
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        stop = true;
      }
    }
  };
  const long at_once = std::min(blocks, kernel.together ? blocks : std::max<long>(1, settings().threads));
  if (at_once <= 1) {
    worker();
  } else {
    std::vector<std::thread> threads;
    for (long i = 0; i < at_once; ++i) threads.emplace_back(worker);
    for (auto& t : threads) t.join();
  }
  if (failure) std::rethrow_exception(failure);
}

namespace self {
Dim3 thread() { return current->thread_index(); }
Dim3 block() { return current->index(); }
Dim3 block_dim() { return current->kernel().block; }
Dim3 grid_dim() { return current->kernel().grid; }
uint64_t clock_ns() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                               std::chrono::nanoseconds(1));
}
void barrier() { current->wait(At::barrier); }
void spin() { current->wait(At::spin); }
unsigned lane() { return current->lane(); }
const Lanes& exchange(uint32_t mask, int operation, uint64_t value) {
  return current->exchange(mask, operation, value);
}
void* shared(size_t bytes, size_t alignment) { return current->shared(bytes, alignment); }
}  // namespace self

}  // namespace cusim
