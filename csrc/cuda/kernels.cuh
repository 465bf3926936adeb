// Which kernels there are: one function a family of codecs, in a file of its own. Each returns a CUDA error code, or
// GW_CUDA_NO_KERNEL for a codec that is not of its family.
#pragma once
#include "cuda/run_rows.cuh"

namespace gw::cuda {

int run_cast(const Task& task);
int run_quant(const Task& task);
int run_scaled(const Task& task);
int run_rotated(const Task& task);
int run_nvfp4(const Task& task);
int run_topk(const Task& task);
int run_randk(const Task& task);

uint64_t select_bytes(uint64_t count, uint64_t k);
int run_select(const gw_cuda_topk& topk);
int run_at_least(const gw_cuda_topk& topk, float threshold, uint32_t* found);

// No codec: elements.cu.
int run_load(const gw_cuda_elements& e);
int run_store(const gw_cuda_elements& e);
int run_gather(const gw_cuda_places& p);
int run_scatter(const gw_cuda_places& p, bool add);
// No codec: peer_values.cu. most, if not null: only how many of its blocks run at once.
int run_values(const gw_cuda_exchange& e, int* most);

}  // namespace gw::cuda
