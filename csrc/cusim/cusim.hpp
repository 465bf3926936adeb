// The part of CUDA that csrc/cuda uses, for a CPU: compiled against this header, the very same .cu files run in tests. The
// names are CUDA's; runtime.cpp holds the functions of its runtime.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cusim/block.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

using dim3 = cusim::Dim3;
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// ---- where a thread is
namespace cusim {
template <Dim3 (*Where)()>
struct Place {
  struct Axis {
    unsigned Dim3::* axis;
    operator unsigned() const { return Where().*axis; }
  };
  Axis x{&Dim3::x}, y{&Dim3::y}, z{&Dim3::z};
};
template <class T>
uint64_t bits(T v) {
  static_assert(sizeof(T) <= 8);
  uint64_t u = 0;
  std::memcpy(&u, &v, sizeof(T));
  return u;
}
template <class T>
T from_bits(uint64_t u) {
  T v;
  std::memcpy(&v, &u, sizeof(T));
  return v;
}
}  // namespace cusim
inline const cusim::Place<cusim::self::thread> threadIdx;
inline const cusim::Place<cusim::self::block> blockIdx;
inline const cusim::Place<cusim::self::block_dim> blockDim;
inline const cusim::Place<cusim::self::grid_dim> gridDim;

// ---- threads together
inline void __syncthreads() { cusim::self::barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { cusim::self::exchange(mask, 1, 0); }
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int distance) {
  const unsigned lane = cusim::self::lane();
  const auto& all = cusim::self::exchange(mask, 2, cusim::bits(v));
  return cusim::from_bits<T>(all.value[(lane ^ static_cast<unsigned>(distance)) & 31]);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned distance) {
  const unsigned lane = cusim::self::lane();
  const auto& all = cusim::self::exchange(mask, 3, cusim::bits(v));
  return lane < distance ? v : cusim::from_bits<T>(all.value[lane - distance]);
}
template <class T>
T __shfl_sync(unsigned mask, T v, int from) {
  const auto& all = cusim::self::exchange(mask, 4, cusim::bits(v));
  return cusim::from_bits<T>(all.value[from & 31]);
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned v) {
  const auto& all = cusim::self::exchange(mask, 5, v);
  unsigned sum = 0;
  for (int lane = 0; lane < 32; ++lane) sum += mask >> lane & 1 ? static_cast<unsigned>(all.value[lane]) : 0;
  return sum;
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned v) {
  const auto& all = cusim::self::exchange(mask, 6, v);
  unsigned most = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1 && all.value[lane] > most) most = static_cast<unsigned>(all.value[lane]);
  return most;
}

inline unsigned __ballot_sync(unsigned mask, bool yes) {
  const auto& all = cusim::self::exchange(mask, 7, yes);
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane)
    ballot |= (mask >> lane & static_cast<unsigned>(all.value[lane])) << lane;
  return ballot;
}

// ---- memory that threads share. ThreadSanitizer knows no fences: an atomic addition, by which blocks tell one another that
// they are done, stands for one as well.
inline unsigned atomicAdd(unsigned* p, unsigned v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
inline void __threadfence() {}
inline unsigned atomicOr(unsigned* p, unsigned v) { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }

// ---- the runtime
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNotReady = 600,
  cudaErrorNotSupported = 801,
  cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
enum cudaMemoryType {
  cudaMemoryTypeUnregistered = 0,
  cudaMemoryTypeHost = 1,
  cudaMemoryTypeDevice = 2,
  cudaMemoryTypeManaged = 3
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
struct cudaDeviceProp {
  char name[256];
  int major, minor;
};
namespace cusim {
struct Stream;
struct Event;
struct Graph;
}  // namespace cusim
using cudaStream_t = cusim::Stream*;
using cudaEvent_t = cusim::Event*;
using cudaGraph_t = cusim::Graph*;
using cudaGraphExec_t = cusim::Graph*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocPortable = 1;

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* p);
cudaError_t cudaMalloc(void** p, size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
struct cudaIpcMemHandle_t {
  char reserved[64];
};
constexpr unsigned cudaIpcMemLazyEnablePeerAccess = 1;
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* p);
cudaError_t cudaIpcOpenMemHandle(void** p, cudaIpcMemHandle_t handle, unsigned flags);
cudaError_t cudaIpcCloseMemHandle(void* p);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

constexpr int kBlocksPerSm = 16;
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, size_t) {
  *blocks = kBlocksPerSm;
  return cudaSuccess;
}

namespace cusim {
// Puts a launch on a stream; `arguments` are copied.
void enqueue(cudaStream_t stream, Kernel kernel, size_t argument_bytes);
}  // namespace cusim
