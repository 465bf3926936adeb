// What changed between two arrays (codec/changes.hpp), as arrays of bytes.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "base/error.hpp"
#include "bindings/view_py.hpp"
#include "codec/changes.hpp"

namespace py = pybind11;

namespace gw {
namespace {

View bytes_of(py::handle array, const char* what, bool writable) {
  const View v = view_of(array, writable);
  if (v.dtype != DType::u8)
    fail_argument(std::string(what) + " must be uint8 bytes, got " + std::string(name(v.dtype)));
  return v;
}

size_t words(const View& now, const View& before, size_t word_bytes) {
  if (now.count != before.count)
    fail_argument("now and before must have equally many bytes, got " + std::to_string(now.count) + " and " +
                  std::to_string(before.count));
  if (word_bytes == 0 || now.count % word_bytes)
    fail_argument(std::to_string(now.count) + " bytes are no whole words of " + std::to_string(word_bytes));
  return now.count / word_bytes;
}

py::array_t<uint8_t> pack(py::handle now_array, py::handle before_array, size_t word_bytes, int threads) {
  const View now = bytes_of(now_array, "now", false), before = bytes_of(before_array, "before", false);
  const size_t count = words(now, before, word_bytes);
  std::vector<uint8_t> packed;
  {
    py::gil_scoped_release released;
    packed = pack_changes(now.data, before.data, count, word_bytes, threads);
  }
  return py::array_t<uint8_t>(static_cast<py::ssize_t>(packed.size()), packed.data());
}

void unpack(py::handle packed_array, py::handle before_array, size_t word_bytes, py::handle out,
            int threads) {
  const View packed = bytes_of(packed_array, "packed", false),
             before = bytes_of(before_array, "before", false), now = bytes_of(out, "out", true);
  const size_t count = words(now, before, word_bytes);
  py::gil_scoped_release released;
  unpack_changes(static_cast<const uint8_t*>(packed.data), packed.count, before.data, count, word_bytes,
                 now.data, threads);
}

}  // namespace

void register_changes(py::module_& m) {
  m.def("pack_changes", &pack, py::arg("now"), py::arg("before"), py::arg("word_bytes"),
        py::arg("threads") = 1);
  m.def("unpack_changes", &unpack, py::arg("packed"), py::arg("before"), py::arg("word_bytes"),
        py::arg("out"), py::arg("threads") = 1);
}

}  // namespace gw
