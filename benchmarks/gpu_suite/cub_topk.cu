// Top-k by magnitude with cub: a radix sort of (|x|, index), largest first, of which the caller takes the first k.
#include <cub/device/device_radix_sort.cuh>

__global__ void keys_of(const float* x, unsigned* key, unsigned* index, unsigned n) {
  const unsigned stride = gridDim.x * blockDim.x;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
    key[i] = __float_as_uint(x[i]) & 0x7fffffffu;
    index[i] = i;
  }
}

// keys, indices: [2][n], the second half is written. With temp null only *temp_bytes is set.
extern "C" int gw_cub_topk(const float* x, unsigned* keys, unsigned* indices, unsigned n, void* temp,
                           size_t* temp_bytes, cudaStream_t stream) {
  if (temp) keys_of<<<1024, 256, 0, stream>>>(x, keys, indices, n);
  const cudaError_t sorted = cub::DeviceRadixSort::SortPairsDescending(
      temp, *temp_bytes, keys, keys + n, indices, indices + n, static_cast<int>(n), 0, 31, stream);
  return sorted != cudaSuccess ? sorted : cudaGetLastError();
}
