// Many small arrays into one buffer and back, for all_reduce_many.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <vector>

#include "base/error.hpp"
#include "bindings/view_py.hpp"

namespace py = pybind11;

namespace gw {
namespace {

void move_all(const py::sequence& arrays, const std::vector<size_t>& offsets, const View& buffer, bool pack) {
  if (py::len(arrays) != offsets.size())
    fail_argument("expected one offset for each of the " + std::to_string(py::len(arrays)) + " arrays, got " +
                  std::to_string(offsets.size()));
  for (size_t i = 0; i < offsets.size(); ++i) {
    const View v = view_of(arrays[i], !pack);
    const size_t begin = offsets[i] * size_of(v.dtype);
    if (begin > buffer.bytes() || v.bytes() > buffer.bytes() - begin)
      fail_argument("array " + std::to_string(i) + " does not fit into the buffer at its offset");
    auto* inside = static_cast<std::byte*>(buffer.data) + begin;
    if (v.bytes() && pack) std::memcpy(inside, v.data, v.bytes());
    if (v.bytes() && !pack) std::memcpy(v.data, inside, v.bytes());
  }
}

}  // namespace

void register_pack(py::module_& m) {
  m.def(
      "pack",
      [](const py::sequence& arrays, const std::vector<size_t>& offsets, py::handle buffer) {
        move_all(arrays, offsets, view_of(buffer, true), true);
      },
      py::arg("arrays"), py::arg("offsets"), py::arg("buffer"));
  m.def(
      "unpack",
      [](py::handle buffer, const std::vector<size_t>& offsets, const py::sequence& arrays) {
        move_all(arrays, offsets, view_of(buffer, false), false);
      },
      py::arg("buffer"), py::arg("offsets"), py::arg("arrays"));
}

}  // namespace gw
