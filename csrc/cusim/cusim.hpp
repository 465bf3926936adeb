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
#define __restrict__ __restrict

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
T __shfl_sync(unsigned mask, T v, int source) {
  return cusim::from_bits<T>(cusim::self::exchange(mask, 3, cusim::bits(v)).value[source & 31]);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned distance) {
  const unsigned lane = cusim::self::lane();
  const auto& all = cusim::self::exchange(mask, 4, cusim::bits(v));
  return cusim::from_bits<T>(all.value[lane >= distance ? lane - distance : lane]);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto& all = cusim::self::exchange(mask, 5, predicate != 0);
  unsigned votes = 0;
  for (unsigned l = 0; l < 32; ++l)
    if (mask >> l & 1) votes |= static_cast<unsigned>(all.value[l] != 0) << l;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

// ---- bits and atomics (those of CUDA order nothing else: relaxed)
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
template <class T>
T atomicAdd(T* p, T v) {
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicOr(T* p, T v) {
  return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicMax(T* p, T v) {
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (old < v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}

// ---- the runtime
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorInsufficientDriver = 35,
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
}
using cudaStream_t = cusim::Stream*;
constexpr unsigned cudaStreamNonBlocking = 1;

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* p);
cudaError_t cudaMalloc(void** p, size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

namespace cusim {
// Puts a launch on a stream; `arguments` are copied.
void enqueue(cudaStream_t stream, Kernel kernel, size_t argument_bytes);
}  // namespace cusim
