// What a sparse all-reduce needs beside the codecs: selection by threshold, and packed places (elias_fano.hpp).
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>

#include "base/error.hpp"
#include "bindings/view_py.hpp"
#include "codec/elias_fano.hpp"
#include "codec/topk_exact.hpp"

namespace py = pybind11;

namespace gw {
namespace {

View typed(py::handle array, DType dtype, const char* what, bool writable) {
  const View v = view_of(array, writable);
  if (v.dtype != dtype)
    fail_argument(std::string(what) + " must be " + std::string(name(dtype)) + ", got " +
                  std::string(name(v.dtype)));
  return v;
}

size_t select_at_least(py::handle array, float threshold, py::handle values, py::handle indices) {
  const View x = typed(array, DType::f32, "x", false), v = typed(values, DType::f32, "values", true),
             i = typed(indices, DType::i64, "indices", true);
  if (v.count != i.count) fail_argument("values and indices must have equally many elements");
  if (!(threshold > 0)) fail_argument("threshold must be above 0");
  py::gil_scoped_release released;
  return above_threshold(static_cast<const float*>(x.data), x.count, threshold, v.count,
                         static_cast<float*>(v.data), static_cast<int64_t*>(i.data));
}

generic::IndexCode code_for(size_t n, size_t length) {
  constexpr size_t kMost = size_t{1} << 31;
  if (n > length || length > kMost)
    fail_argument("indices: expected at most " + std::to_string(std::min(length, kMost)) +
                  " of as many, got " + std::to_string(n) + " of " + std::to_string(length));
  return n == 0 ? generic::IndexCode{} : generic::index_code(n, length);
}

void pack_indices(py::handle indices, size_t length, py::handle out) {
  const View i = typed(indices, DType::i32, "indices", false), to = typed(out, DType::u8, "out", true);
  const auto code = code_for(i.count, length);
  if (to.count != code.bytes)
    fail_argument("out: expected " + std::to_string(code.bytes) + " bytes, got " + std::to_string(to.count));
  const auto* numbers = static_cast<const uint32_t*>(i.data);
  for (size_t j = 0; j < i.count; ++j)
    if (numbers[j] >= length || (j && numbers[j] <= numbers[j - 1]))
      fail_argument("indices must increase strictly and stay below length");
  py::gil_scoped_release released;
  if (i.count) generic::put_indices(code, numbers, i.count, static_cast<std::byte*>(to.data));
}

void unpack_indices(py::handle packed, size_t length, py::handle indices) {
  const View from = typed(packed, DType::u8, "packed", false),
             i = typed(indices, DType::i32, "indices", true);
  const auto code = code_for(i.count, length);
  if (from.count != code.bytes)
    fail_argument("packed: expected " + std::to_string(code.bytes) + " bytes, got " +
                  std::to_string(from.count));
  py::gil_scoped_release released;
  if (i.count && !generic::get_indices(code, static_cast<const std::byte*>(from.data), i.count, length,
                                       static_cast<uint32_t*>(i.data)))
    throw Error(ErrorKind::frame, "malformed payload: packed indices must increase strictly, stay below " +
                                      std::to_string(length) +
                                      " and be padded with 0; the message was damaged");
}

}  // namespace

void register_sparse(py::module_& m) {
  m.def("select_at_least", &select_at_least, py::arg("x"), py::arg("threshold"), py::arg("values"),
        py::arg("indices"));
  m.def(
      "packed_index_bytes", [](size_t n, size_t length) { return code_for(n, length).bytes; }, py::arg("n"),
      py::arg("length"));
  m.def("pack_indices", &pack_indices, py::arg("indices"), py::arg("length"), py::arg("out"));
  m.def("unpack_indices", &unpack_indices, py::arg("packed"), py::arg("length"), py::arg("indices"));
}

}  // namespace gw
