// The simulator of csrc/cusim: what a GPU may let pass ends a launch, and what is right comes out right in every order.
#include "cusim/cusim.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace {

using cusim::Order;

constexpr unsigned kThreads = 96;
constexpr unsigned kAll = ~0u;

struct Call {
  void (*body)(int* memory);
  int* memory;
};

void launch(void (*body)(int*), int* memory = nullptr, unsigned blocks = 1, bool together = false) {
  const Call call{body, memory};
  constexpr auto run = +[](const void* p) {
    const auto* c = static_cast<const Call*>(p);
    c->body(c->memory);
  };
  cusim::run({run, &call, {blocks, 1, 1}, {kThreads, 1, 1}, together});
}

// For the time of a test.
struct With {
  With(Order order, int threads, long spins = 1000) {
    cusim::settings().order = order;
    cusim::settings().threads = threads;
    cusim::settings().spins = spins;
  }
  ~With() {
    cusim::settings().order = Order::forward;
    cusim::settings().threads = 1;
    cusim::settings().spins = 200000;
  }
};

// The error that every order of threads ends with.
#define CHECK_REFUSED(text, ...)                                                      \
  for (Order order : {Order::forward, Order::reverse, Order::random}) {               \
    const With settings(order, 1);                                                    \
    CHECK_THROWS_WITH_AS(launch(__VA_ARGS__), doctest::Contains(text), cusim::Error); \
  }

int index() { return static_cast<int>(blockIdx.x * kThreads + threadIdx.x); }

}  // namespace

TEST_CASE("barriers, warps and shared memory work in every order of threads and blocks") {
  for (Order order : {Order::forward, Order::reverse, Order::random})
    for (int threads : {1, 3}) {
      const With settings(order, threads);
      std::vector<int> out(5 * kThreads, -1);
      launch(
          [](int* memory) {
            auto* shared = static_cast<int*>(cusim::self::shared(kThreads * sizeof(int), 16));
            shared[threadIdx.x] = index();
            __syncthreads();
            const int mirrored = shared[kThreads - 1 - threadIdx.x];
            memory[index()] = mirrored + __shfl_xor_sync(kAll, mirrored, 1);
          },
          out.data(), 5);
      int wrong = 0;
      for (int i = 0; i < static_cast<int>(out.size()); ++i) {
        const int block = i / static_cast<int>(kThreads), thread = i % static_cast<int>(kThreads);
        const auto mirrored = [&](int t) { return (block + 1) * static_cast<int>(kThreads) - 1 - t; };
        wrong += out[static_cast<size_t>(i)] != mirrored(thread) + mirrored(thread ^ 1);
      }
      CHECK(wrong == 0);
    }
}

TEST_CASE("a missing barrier shows in another order, and shared memory begins as garbage") {
  const auto body = [](int* memory) {
    auto* shared = static_cast<int*>(cusim::self::shared(kThreads * sizeof(int), 16));
    shared[threadIdx.x] = 1;  // no barrier before what follows
    memory[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
  };
  std::vector<int> out(kThreads);
  launch(body, out.data());
  CHECK(out.front() == static_cast<int>(0xcdcdcdcd));
  CHECK(out.back() == 1);
  const With settings(Order::reverse, 1);
  launch(body, out.data());
  CHECK(out.front() == 1);
  CHECK(out.back() == static_cast<int>(0xcdcdcdcd));
}

TEST_CASE("threads that miss a barrier are an error") {
  CHECK_REFUSED("miss it", [](int*) {
    if (threadIdx.x != 40) __syncthreads();
  });
}

TEST_CASE("lanes of a warp that disagree are an error") {
  CHECK_REFUSED("different operations or masks", [](int*) {
    if (threadIdx.x == 7)
      __syncwarp();
    else
      __shfl_xor_sync(kAll, 1, 1);
  });
  CHECK_REFUSED("different operations or masks", [](int*) { __syncwarp(threadIdx.x == 7 ? 0xffu : kAll); });
  CHECK_REFUSED("a lane that has ended", [](int*) {
    if (threadIdx.x != 7) __syncwarp();
  });
  CHECK_REFUSED("waits at __syncthreads", [](int*) {
    if (threadIdx.x == 7)
      __syncthreads();
    else
      __syncwarp();
  });
  CHECK_REFUSED("whose mask leaves it out", [](int*) { __syncwarp(0xffu); });
}

TEST_CASE("a block that waits for a signal that never comes is an error, and one that comes ends the wait") {
  const auto wait = [](int* memory) {
    while (__atomic_load_n(memory, __ATOMIC_ACQUIRE) == 0) cusim::self::spin();
  };
  int never = 0;
  CHECK_REFUSED("a signal that never comes", wait, &never);
  int signal = 0;
  const With settings(Order::forward, 1, 200000);
  launch(
      [](int* memory) {
        if (blockIdx.x == 1) __atomic_store_n(memory, 1, __ATOMIC_RELEASE);
        while (__atomic_load_n(memory, __ATOMIC_ACQUIRE) == 0) cusim::self::spin();
      },
      &signal, 2, true);
  CHECK(signal == 1);
}

TEST_CASE("a launch that failed leaves nothing behind for the next") {
  CHECK_THROWS_AS(launch([](int*) {
                    if (threadIdx.x) __syncthreads();
                  }),
                  cusim::Error);
  std::vector<int> out(kThreads);
  launch([](int* memory) { memory[threadIdx.x] = 1; }, out.data());
  CHECK(std::ranges::count(out, 1) == kThreads);
}
