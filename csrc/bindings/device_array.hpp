// A flat piece of GPU memory as a Python object: what gradwire makes where neither torch nor CuPy made the input, and what
// tests pass, also in the simulator. Other libraries read it through __cuda_array_interface__.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "base/view.hpp"

namespace gw {

class DeviceArray {
 public:
  DeviceArray(std::vector<size_t> shape, DType dtype, int device);  // not initialised
  DeviceArray part(size_t begin, size_t end) const;                 // flat; the same memory

  const std::vector<size_t>& shape() const { return shape_; }
  const View& view() const { return view_; }

 private:
  std::vector<size_t> shape_;
  View view_;
  std::shared_ptr<void> memory_;
};

void register_device_array(pybind11::module_& m);

}  // namespace gw
