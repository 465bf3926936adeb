// The kernels of exchanges without a codec, one a dtype.
#include "cuda/peer_values.cuh"
// then
#include "cuda/kernels.cuh"

namespace gw::cuda {
namespace {

template <DType Dtype>
__global__ void __launch_bounds__(kPeerThreads, 2) exchange_values(const gw_cuda_exchange e) {
  run_units<Values<Dtype>, Signals>(e);
}

}  // namespace

int run_values(const gw_cuda_exchange& e, int* most) {
  switch (static_cast<DType>(e.dtype)) {
    case DType::f32:
      return run_exchange(exchange_values<DType::f32>, e, most);
    case DType::bf16:
      return run_exchange(exchange_values<DType::bf16>, e, most);
    default:
      return run_exchange(exchange_values<DType::f16>, e, most);
  }
}

}  // namespace gw::cuda
