// A borrowed, flat, contiguous array. A View never owns; whoever made it keeps the memory alive until the call
// (or the Work) it was given to is done.
#pragma once
#include <cstddef>

#include "base/dtype.hpp"

namespace gw {

struct View {
  void* data = nullptr;
  size_t count = 0;  // elements
  DType dtype = DType::f32;
  int device = -1;         // -1: host memory; >= 0: CUDA device index
  void* stream = nullptr;  // CUDA stream the memory is ordered on; unused on the host

  size_t bytes() const { return count * size_of(dtype); }
};

}  // namespace gw
