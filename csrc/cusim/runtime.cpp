// CUDA's runtime for one simulated device. The default stream does its work before it returns; any other has an OS thread.
// An event counts how often it was recorded; whoever waits for it waits for the count of the moment, as CUDA has it.
// A launch that fails leaves its reason as the error of its stream, and of cudaGetLastError.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cusim/cusim.hpp"

namespace cusim {
namespace {

constexpr int kSms = 2;
std::atomic<unsigned> delay_us = 0;  // before all that a stream does

std::mutex mutex_of_failure;
std::string failure_text = "no error";
cudaError_t failure = cudaSuccess;

void fail(const std::string& why) {
  const std::lock_guard lock(mutex_of_failure);
  failure_text = "simulated GPU: " + why;
  failure = cudaErrorLaunchFailure;
}

template <class F>
void guarded(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    fail(e.what());
  }
}

}  // namespace

struct Graph {
  std::vector<std::function<void()>> work;
};

struct Stream {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> queue;
  bool busy = false, ending = false;
  std::unique_ptr<Graph> recording;  // takes what is put here, instead of the queue
  std::thread thread{[this] { work(); }};

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return ending || !queue.empty(); });
      if (queue.empty()) return;
      const auto next = std::move(queue.front());
      queue.pop_front();
      busy = true;
      lock.unlock();
      if (delay_us) std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
      guarded(next);
      lock.lock();
      busy = false;
      changed.notify_all();
    }
  }
  void wait() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return queue.empty() && !busy; });
  }
  ~Stream() {
    wait();
    {
      const std::lock_guard lock(mutex);
      ending = true;
    }
    changed.notify_all();
    thread.join();
  }
};

// Lives on in what streams still have to do with it.
struct Moments {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t recorded = 0, reached = 0;

  uint64_t record() {
    const std::lock_guard lock(mutex);
    return ++recorded;
  }
  uint64_t last() {
    const std::lock_guard lock(mutex);
    return recorded;
  }
  void reach(uint64_t n) {
    {
      const std::lock_guard lock(mutex);
      reached = std::max(reached, n);
    }
    changed.notify_all();
  }
  void wait(uint64_t n) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return reached >= n; });
  }
  bool done() {
    const std::lock_guard lock(mutex);
    return reached == recorded;
  }
};
struct Event {
  std::shared_ptr<Moments> moments = std::make_shared<Moments>();
};

namespace {
std::mutex mutex_of_streams;
std::set<Stream*>& streams() {
  static auto* all = new std::set<Stream*>;
  return *all;
}

// 1 and 2 are CUDA's names of the default streams.
bool is_default(Stream* s) { return reinterpret_cast<uintptr_t>(s) <= 2; }
void put(Stream* s, std::function<void()> f) {
  if (is_default(s)) return guarded(f);
  {
    const std::lock_guard lock(s->mutex);
    if (s->recording) return s->recording->work.push_back(std::move(f));
    s->queue.push_back(std::move(f));
  }
  s->changed.notify_all();
}
}  // namespace

void enqueue(cudaStream_t stream, Kernel kernel, size_t argument_bytes) {
  if (kernel.together && kernel.grid.x * kernel.grid.y * kernel.grid.z > kSms * kBlocksPerSm)
    return fail("too many blocks in a cooperative launch");
  std::string copy(static_cast<const char*>(kernel.arguments), argument_bytes);
  put(stream, [kernel, copy = std::move(copy)]() mutable {
    kernel.arguments = copy.data();
    run(kernel);
  });
}

}  // namespace cusim

using namespace cusim;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int) {
  std::snprintf(out->name, sizeof out->name, "simulated GPU");
  out->major = 9;
  out->minor = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = kSms;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  put(stream, [=] {
    if (bytes) std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new Stream;
  const std::lock_guard lock(mutex_of_streams);
  streams().insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  {
    const std::lock_guard lock(mutex_of_streams);
    streams().erase(stream);
  }
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (!is_default(stream)) stream->wait();
  return cudaGetLastError();
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (is_default(stream)) return cudaErrorInvalidValue;
  stream->recording = std::make_unique<Graph>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->recording.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = new Graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const auto& f : graph->work) put(stream, f);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(mutex_of_streams);
  for (Stream* s : streams()) s->wait();
  return cudaGetLastError();
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  put(stream, [=] {
    if (bytes) std::memset(p, value, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  if (posix_memalign(p, 4096, bytes ? bytes : 1) != 0) return cudaErrorMemoryAllocation;
  std::memset(*p, 0xcd, bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new Event;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  put(stream, [moments = event->moments, n = event->moments->record()] { moments->reach(n); });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return event->moments->done() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  put(stream, [moments = event->moments, n = event->moments->last()] { moments->wait(n); });
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const std::lock_guard lock(mutex_of_failure);
  const cudaError_t last = failure;
  failure = cudaSuccess;
  return last;
}
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaSuccess) return "no error";
  if (error == cudaErrorMemoryAllocation) return "out of memory";
  if (error == cudaErrorInvalidValue) return "invalid argument";
  if (error == cudaErrorNotReady) return "device not ready";
  thread_local std::string text;
  const std::lock_guard lock(mutex_of_failure);
  text = failure_text;
  return text.c_str();
}

// What tests choose: the order of threads and blocks (0 forward, 1 reverse, 2 random by `seed`).
extern "C" __attribute__((visibility("default"))) void gradwire_cusim_order(int order, unsigned seed) {
  settings().order = static_cast<Order>(order);
  settings().seed = seed;
}
// How long a stream waits before each thing it does, in microseconds: what relies on luck instead of order, fails.
extern "C" __attribute__((visibility("default"))) void gradwire_cusim_delay(unsigned us) { delay_us = us; }
// The stream stands still until *released is not 0.
extern "C" __attribute__((visibility("default"))) void gradwire_cusim_hold(cudaStream_t stream,
                                                                           const std::atomic<int>* released) {
  put(stream, [released] {
    while (!*released) std::this_thread::sleep_for(std::chrono::microseconds(100));
  });
}
