#include "bindings/device_array.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "base/error.hpp"
#include "bindings/view_py.hpp"
#include "cuda/gpu.hpp"

namespace py = pybind11;

namespace gw {
namespace {

// NumPy's spelling; bfloat16 has none and travels as bytes without meaning
const char* typestr(DType d) {
  constexpr const char* kNames[] = {"", "<f4", "<f8", "<V2", "<f2", "<i4", "<i8", "|u1"};
  return kNames[static_cast<int>(d)];
}

py::dict interface_of(const DeviceArray& a) {
  py::dict d;
  d["shape"] = py::tuple(py::cast(a.shape()));
  d["typestr"] = typestr(a.view().dtype);
  d["data"] = py::make_tuple(reinterpret_cast<uintptr_t>(a.view().data), false);
  d["strides"] = py::none();
  d["stream"] = py::none();
  d["version"] = 3;
  return d;
}

void check_host(const DeviceArray& a, const View& host) {
  if (host.bytes() != a.view().bytes())
    fail_argument("expected " + std::to_string(a.view().bytes()) + " bytes, got " +
                  std::to_string(host.bytes()));
}
void set(const DeviceArray& a, py::handle host) {
  const View from = view_of(host, false);
  check_host(a, from);
  py::gil_scoped_release released;
  gpu::copy(a.view().device, a.view().data, from.data, from.bytes(), nullptr);
}
void get(const DeviceArray& a, py::handle host) {
  const View to = view_of(host, true);
  check_host(a, to);
  py::gil_scoped_release released;
  gpu::copy(a.view().device, to.data, a.view().data, to.bytes(), nullptr);
}

DeviceArray sliced(const DeviceArray& a, const py::slice& elements) {
  size_t begin = 0, end = 0, step = 0, length = 0;
  if (!elements.compute(a.view().count, &begin, &end, &step, &length)) throw py::error_already_set();
  if (step != 1) fail_argument("a slice of a GPU array takes every element, got a step");
  return a.part(begin, begin + length);
}

}  // namespace

DeviceArray::DeviceArray(std::vector<size_t> shape, DType dtype, int device) : shape_(std::move(shape)) {
  view_ = {.data = nullptr, .count = 1, .dtype = dtype, .device = device};
  for (size_t n : shape_) view_.count *= n;
  view_.data = gpu::allocate(device, view_.bytes());
  memory_ = {view_.data, [device](void* p) { gpu::release(device, p); }};
}

DeviceArray DeviceArray::part(size_t begin, size_t end) const {
  DeviceArray made(*this);
  made.shape_ = {end - begin};
  made.view_.data = static_cast<std::byte*>(view_.data) + begin * size_of(view_.dtype);
  made.view_.count = end - begin;
  return made;
}

void register_device_array(py::module_& m) {
  py::class_<DeviceArray>(m, "DeviceArray")
      .def(py::init([](std::vector<size_t> shape, const std::string& dtype, int device) {
             return std::make_unique<DeviceArray>(std::move(shape), dtype_named(dtype), device);
           }),
           py::arg("shape"), py::arg("dtype"), py::arg("device") = 0)
      .def_property_readonly("shape", [](const DeviceArray& a) { return py::tuple(py::cast(a.shape())); })
      .def_property_readonly("dtype", [](const DeviceArray& a) { return std::string(name(a.view().dtype)); })
      .def_property_readonly("size", [](const DeviceArray& a) { return a.view().count; })
      .def_property_readonly("device", [](const DeviceArray& a) { return a.view().device; })
      .def_property_readonly("__cuda_array_interface__", &interface_of)
      .def("__getitem__", &sliced, py::arg("elements"))
      .def("copy_from", &set, py::arg("host"))
      .def("copy_to", &get, py::arg("host"));
}

}  // namespace gw
