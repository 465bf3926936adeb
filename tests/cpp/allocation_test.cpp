// A warm communicator allocates nothing: counted by operator new itself.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <barrier>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#include "comm/communicator.hpp"
#include "transport/endpoint.hpp"

namespace {
std::atomic<bool> counting{false};
std::atomic<size_t> allocations{0};

void* allocate(size_t bytes, size_t align) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  void* p = std::aligned_alloc(align, (bytes + align) / align * align);
  if (!p) throw std::bad_alloc();
  return p;
}
}  // namespace

void* operator new(size_t bytes) { return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new[](size_t bytes) { return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(size_t bytes, std::align_val_t align) {
  return allocate(bytes, static_cast<size_t>(align));
}
void* operator new[](size_t bytes, std::align_val_t align) {
  return allocate(bytes, static_cast<size_t>(align));
}
// All of them, or a sanitizer pairs its own with ours.
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept {
  return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }

using namespace gw;

TEST_CASE("a call on a warm communicator allocates nothing, synchronous or not") {
  constexpr int kRanks = 3;
  Config config;
  config.timeout_s = 20;
  config.channel_bytes = 64 << 10;
  config.segment_bytes = 4096;
  InprocHub hub(kRanks, config.channel_bytes);
  std::barrier meet(kRanks);
  std::atomic<size_t> counted{0};
  std::vector<std::thread> threads;
  for (int r = 0; r < kRanks; ++r)
    threads.emplace_back([&, r] {
      Communicator comm(hub.connect(r), 0, config);
      std::vector<float> x(30000), residual(30000);
      const auto block = Arena::of_process()->allocate(30000 * sizeof(float));
      const View lent{.data = block->data(), .count = 30000, .dtype = DType::f32};
      const View all{.data = x.data(), .count = x.size(), .dtype = DType::f32};
      size_t in_flight = 200;
      const auto calls = [&] {
        for (const char* algorithm : {"", "direct", "ring", "double_tree"})
          for (const size_t count : {size_t{10}, x.size()}) {
            const View v{.data = x.data(), .count = count, .dtype = DType::f32};
            CallOptions o;
            o.algorithm = algorithm;
            Work work = comm.prepare(Collective::all_reduce, v, v, o);
            comm.engine().run(work);
          }
        Work lending = comm.prepare(Collective::all_reduce, lent, lent, {});
        comm.engine().run(lending);
        static const CodecPtr int8 = make_codec("int8");
        const View owed{.data = residual.data(), .count = residual.size(), .dtype = DType::f32};
        CallOptions o;
        o.codec = int8;
        o.residual = owed;
        Work work = comm.prepare(Collective::all_reduce, all, all, o);
        comm.engine().run(work);
        // the warm-up has more of them in flight than what is counted: a driver lets go of one a moment after it is done
        std::array<std::shared_ptr<Work>, 200> queued;
        for (size_t i = 0; i < in_flight; ++i) {
          queued[i] = comm.prepare_shared(Collective::all_reduce, all, all, {});
          comm.engine().submit(queued[i]);
        }
        for (size_t i = 0; i < in_flight; ++i) queued[i]->wait();
      };
      for (int i = 0; i < 3; ++i) calls();
      in_flight = 100;
      meet.arrive_and_wait();
      if (r == 0) counting = true;
      meet.arrive_and_wait();
      for (int i = 0; i < 20; ++i) calls();
      meet.arrive_and_wait();
      if (r == 0) {
        counting = false;
        counted = allocations.load();
      }
      meet.arrive_and_wait();
      comm.engine().close();
    });
  for (auto& t : threads) t.join();
  CHECK(counted == 0);
}
