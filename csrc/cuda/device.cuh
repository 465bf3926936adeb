// What the kernels see of the machine: CUDA, or the simulator that runs them on a CPU.
#pragma once
#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "cusim/cusim.hpp"
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#ifndef GW_ISA
#define GW_ISA cuda  // the namespace of what is shared with the CPU's loops
#endif
#define GW_DEVICE __device__ __forceinline__
// Before a loop whose counter picks among a thread's registers: a loop that is left as it is puts them into memory.
#ifdef __CUDACC__
#define GW_UNROLL _Pragma("unroll")
#else
#define GW_UNROLL
#endif

namespace gw::cuda {

// The block's shared memory as a T. One T a kernel.
template <class T>
GW_DEVICE T& shared_memory() {
#ifdef __CUDACC__
  __shared__ alignas(16) unsigned char bytes[sizeof(T)];
  return *reinterpret_cast<T*>(bytes);
#else
  return *static_cast<T*>(cusim::self::shared(sizeof(T), 64));
#endif
}

#ifndef __CUDACC__
template <class Arguments>
int enqueue(void (*kernel)(Arguments), dim3 grid, unsigned threads, cudaStream_t stream,
            const std::type_identity_t<Arguments>& arguments, bool together) {
  struct Call {
    void (*kernel)(Arguments);
    std::remove_const_t<Arguments> arguments;
  };
  static_assert(std::is_trivially_copyable_v<Call>);
  const Call call{kernel, arguments};
  constexpr auto run = +[](const void* p) {
    const auto* c = static_cast<const Call*>(p);
    c->kernel(c->arguments);
  };
  cusim::enqueue(stream, {run, &call, grid, {threads, 1, 1}, together}, sizeof(call));
  return static_cast<int>(cudaGetLastError());
}
#endif

// kernel(arguments) on grid x threads.
template <class Arguments>
int launch(void (*kernel)(Arguments), dim3 grid, unsigned threads, cudaStream_t stream,
           const std::type_identity_t<Arguments>& arguments) {
#ifdef __CUDACC__
  kernel<<<grid, threads, 0, stream>>>(arguments);
  return static_cast<int>(cudaGetLastError());
#else
  return enqueue(kernel, grid, threads, stream, arguments, false);
#endif
}

// The same, if all blocks can run at once: else it fails instead of hanging.
template <class Arguments>
int launch_together(void (*kernel)(Arguments), dim3 grid, unsigned threads, cudaStream_t stream,
                    const std::type_identity_t<Arguments>& arguments) {
#ifdef __CUDACC__
  void* list[] = {const_cast<std::remove_const_t<Arguments>*>(&arguments)};
  cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), grid, dim3(threads), list, 0, stream);
  return static_cast<int>(cudaGetLastError());
#else
  return enqueue(kernel, grid, threads, stream, arguments, true);
#endif
}

// How many blocks a kernel that strides over its work is given at most.
inline unsigned most_blocks(int device) {
  int sms = 1;
  cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  return static_cast<unsigned>(sms) * 8;
}

}  // namespace gw::cuda
