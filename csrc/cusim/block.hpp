// One block of a simulated launch: its CUDA threads are fibers on one OS thread, in an order that a test chooses. What CUDA
// leaves undefined and a GPU may let pass (threads that miss a barrier, lanes that disagree) ends the launch with an Error.
#pragma once
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace cusim {

struct Error : std::runtime_error {
  using runtime_error::runtime_error;
};

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

enum class Order : int { forward, reverse, random };

// For the whole process.
struct Settings {
  std::atomic<Order> order{Order::forward};
  std::atomic<unsigned> seed{1};
  std::atomic<long> spins{
      50000000};                // rounds that a block may wait for others before it is called a deadlock
  std::atomic<int> threads{1};  // OS threads for the blocks of a launch that need not run at once
};
Settings& settings();

struct Kernel {
  void (*run)(const void* arguments);
  const void* arguments;
  Dim3 grid, block;
  bool together = false;  // cooperative: every block runs from the start
};

// Runs the launch on the calling thread and others, and returns when all blocks are done. Throws the first Error.
void run(const Kernel& kernel);

// What intrinsics ask for; valid inside a kernel only.
namespace self {
Dim3 thread();
Dim3 block();
Dim3 block_dim();
Dim3 grid_dim();
void barrier();
// Gives `value` to the lanes of `mask`, waits for all of them at the same operation, returns the values of all 32.
struct Lanes {
  uint64_t value[32];
};
const Lanes& exchange(uint32_t mask, int operation, uint64_t value);
unsigned lane();
uint64_t clock_ns();                           // since some moment
void spin();                                   // lets others run: to be called in every loop that waits
void* shared(size_t bytes, size_t alignment);  // zero threads have to have called it before; filled with 0xcd
}  // namespace self

}  // namespace cusim
