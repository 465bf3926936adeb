// Between arrays and fp32 values: what a collective does to elements outside of a codec. The bytes are those of
// codec/kernels_impl.hpp; NaNs, whose bits GPUs do not keep, are given the CPU's by hand.
#include "cuda/kernels.cuh"

namespace gw::cuda {
namespace {

template <class F>
GW_DEVICE void for_each_eight(uint64_t count, F f) {
  const uint64_t step = uint64_t{gridDim.x} * kThreads * kValues;
  for (uint64_t at = (uint64_t{blockIdx.x} * kThreads + threadIdx.x) * kValues; at < count; at += step) f(at);
}

__global__ void __launch_bounds__(kThreads) load_eights(gw_cuda_elements e) {
  for_each_eight(e.count, [&](uint64_t at) {
    float v[kValues], other[kValues];
    load(static_cast<DType>(e.array.dtype), e.array.data, at, e.count, v);
    if (e.residual) {
      load_floats(e.residual, at, e.count, other);
      for (int k = 0; k < kValues; ++k) v[k] = sum_of(v[k], other[k]);
    }
    if (e.add) {
      load_floats(e.values, at, e.count, other);
      for (int k = 0; k < kValues; ++k) v[k] = sum_of(other[k], v[k]);
    }
    store_floats(e.values, at, e.count, v);
  });
}

__global__ void __launch_bounds__(kThreads) store_eights(gw_cuda_elements e) {
  const auto dtype = static_cast<DType>(e.array.dtype);
  for_each_eight(e.count, [&](uint64_t at) {
    float v[kValues], out[kValues];
    load_floats(e.values, at, e.count, v);
    for (int k = 0; k < kValues; ++k) out[k] = product_of(v[k], e.scale);
    store(dtype, e.array.data, at, e.count, out);
    if (!e.residual) return;
    load(dtype, e.array.data, at, e.count, out);  // rounded
    for (int k = 0; k < kValues; ++k) v[k] = difference_of(v[k], out[k]);
    store_floats(e.residual, at, e.count, v);
  });
}

int run(void (*kernel)(gw_cuda_elements), const gw_cuda_elements& e) {
  if (e.count == 0) return 0;
  const auto dtype = static_cast<DType>(e.array.dtype);
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) return cudaErrorInvalidValue;
  const uint64_t blocks = (e.count + kThreads * kValues - 1) / (kThreads * kValues),
                 most = most_blocks(e.device);
  return launch(kernel, {static_cast<unsigned>(blocks < most ? blocks : most), 1, 1}, kThreads,
                static_cast<cudaStream_t>(e.stream), e);
}

struct Places {
  gw_cuda_places p;
  bool scatters, adds;
};
__global__ void __launch_bounds__(kThreads) move_places(Places c) {
  const auto dtype = static_cast<DType>(c.p.x.dtype);
  const uint64_t step = uint64_t{gridDim.x} * kThreads;
  for (uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x; i < c.p.places_count; i += step) {
    const auto at = static_cast<uint64_t>(c.p.places[i]);
    if (at >= c.p.count) continue;
    if (!c.scatters)
      c.p.values[i] = load_one(dtype, c.p.x.data, at);
    else
      store_one(dtype, c.p.x.data, at,
                c.adds ? sum_of(load_one(dtype, c.p.x.data, at), c.p.values[i]) : c.p.values[i]);
  }
}
int run_places(const Places& c) {
  if (c.p.places_count == 0) return 0;
  const uint64_t blocks = (c.p.places_count + kThreads - 1) / kThreads, most = most_blocks(c.p.device);
  return launch(move_places, {static_cast<unsigned>(blocks < most ? blocks : most), 1, 1}, kThreads,
                static_cast<cudaStream_t>(c.p.stream), c);
}

}  // namespace

int run_gather(const gw_cuda_places& p) { return run_places({p, false, false}); }
int run_scatter(const gw_cuda_places& p, bool add) { return run_places({p, true, add}); }
int run_load(const gw_cuda_elements& e) { return run(load_eights, e); }
int run_store(const gw_cuda_elements& e) { return run(store_eights, e); }

}  // namespace gw::cuda
