// The simulated device's memory. Each allocation is a file without a name that other processes can map, as CUDA IPC has it;
// under AddressSanitizer one of malloc, which sees a store behind the end but can be shared with nobody.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "cusim/cusim.hpp"

namespace {

struct Allocation {
  size_t bytes;
  int file;  // -1: of malloc
};
std::mutex mutex;
std::map<uintptr_t, Allocation>& memory() {
  static auto* m = new std::map<uintptr_t, Allocation>;
  return *m;
}

struct Handle {
  int process, file;
  size_t bytes;
};
static_assert(sizeof(Handle) <= sizeof(cudaIpcMemHandle_t));

bool all_memory = false;

void* map(int file, size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return p == MAP_FAILED ? nullptr : p;
}

#if defined(__SANITIZE_ADDRESS__)
void* make(size_t bytes, int& file) {
  void* p = nullptr;
  file = -1;
  return posix_memalign(&p, 256, bytes) ? nullptr : p;
}
#else
void* make(size_t bytes, int& file) {
  file = memfd_create("cusim", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) return nullptr;
  return map(file, bytes);
}
#endif

}  // namespace

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* p) {
  const std::lock_guard lock(mutex);
  const auto address = reinterpret_cast<uintptr_t>(p);
  auto at = memory().upper_bound(address);
  const bool ours = all_memory || (at != memory().begin() && address < (--at)->first + at->second.bytes);
  *out = {ours ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered, ours ? 0 : -1};
  return cudaSuccess;
}
// From now on host memory counts as the device's, too: arrays of a library that knows no simulator can be passed.
extern "C" __attribute__((visibility("default"))) void gradwire_cusim_all_memory(int on) {
  all_memory = on != 0;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  Allocation a{bytes ? bytes : 1, -1};
  *p = make(a.bytes, a.file);
  if (!*p) {
    if (a.file >= 0) close(a.file);
    return cudaErrorMemoryAllocation;
  }
  std::memset(*p, 0xcd, a.bytes);
  const std::lock_guard lock(mutex);
  memory()[reinterpret_cast<uintptr_t>(*p)] = a;
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  const std::lock_guard lock(mutex);
  const auto at = memory().find(reinterpret_cast<uintptr_t>(p));
  if (at == memory().end()) return p ? cudaErrorInvalidValue : cudaSuccess;
  if (at->second.file >= 0) {
    munmap(p, at->second.bytes);
    close(at->second.file);
  } else {
    std::free(p);
  }
  memory().erase(at);
  return cudaSuccess;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* p) {
  const std::lock_guard lock(mutex);
  const auto at = memory().find(reinterpret_cast<uintptr_t>(p));
  if (at == memory().end() || at->second.file < 0) return cudaErrorNotSupported;
  const Handle made{getpid(), at->second.file, at->second.bytes};
  std::memset(handle, 0, sizeof(*handle));
  std::memcpy(handle, &made, sizeof(made));
  return cudaSuccess;
}
cudaError_t cudaIpcOpenMemHandle(void** p, cudaIpcMemHandle_t handle, unsigned) {
  Handle theirs;
  std::memcpy(&theirs, &handle, sizeof(theirs));
  const std::string path = "/proc/" + std::to_string(theirs.process) + "/fd/" + std::to_string(theirs.file);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return cudaErrorInvalidValue;
  *p = map(file, theirs.bytes);
  if (!*p) {
    close(file);
    return cudaErrorMemoryAllocation;
  }
  const std::lock_guard lock(mutex);
  memory()[reinterpret_cast<uintptr_t>(*p)] = {theirs.bytes, file};
  return cudaSuccess;
}
cudaError_t cudaIpcCloseMemHandle(void* p) { return cudaFree(p); }
