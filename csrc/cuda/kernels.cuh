// Which kernels there are: one function a family of codecs, in a file of its own. Each returns a CUDA error code, or
// GW_CUDA_NO_KERNEL for a codec that is not of its family.
#pragma once
#include "cuda/rows.cuh"

namespace gw::cuda {

// What to do with a payload.
struct Task {
  gw_cuda_codec codec;
  CodeCall call;
  bool decode;
  Where where;
  uint64_t step;
};

int run_cast(const Task& task);
int run_quant(const Task& task);
int run_scaled(const Task& task);
int run_rotated(const Task& task);

// No codec: elements.cu.
int run_load(const gw_cuda_elements& e);
int run_store(const gw_cuda_elements& e);

}  // namespace gw::cuda
