// The memory behind `comm.empty`, as a buffer.
#include <pybind11/pybind11.h>

#include "transport/arena.hpp"

namespace py = pybind11;

namespace gw {

void register_arena(py::module_& m) {
  py::class_<Arena::Block>(m, "SharedBlock", py::buffer_protocol())
      .def(py::init([](size_t bytes) {
             py::gil_scoped_release release;
             return Arena::of_process()->allocate(bytes);
           }),
           py::arg("bytes"))
      .def_buffer([](Arena::Block& b) {
        return py::buffer_info(b.data(), 1, py::format_descriptor<uint8_t>::format(),
                               static_cast<py::ssize_t>(b.bytes()));
      });
  m.def("is_shared", [](size_t address, size_t bytes) {
    return Arena::loan_of(reinterpret_cast<const void*>(address), bytes).has_value();
  });
}

}  // namespace gw
