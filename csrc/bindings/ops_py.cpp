// Kernels of gradwire.ops that are no codec: everything is written into arrays that the caller made.
#include <pybind11/pybind11.h>

#include <bit>
#include <cstddef>
#include <string>

#include "base/error.hpp"
#include "bindings/view_py.hpp"
#include "codec/bit_packing.hpp"
#include "codec/kernels.hpp"
#include "codec/sample.hpp"
#include "codec/walsh.hpp"

namespace py = pybind11;

namespace gw {
namespace {

View typed(py::handle array, const char* what, DType dtype, bool writable) {
  const View v = view_of(array, writable);
  if (v.dtype != dtype)
    fail_argument(std::string(what) + " must be " + std::string(name(dtype)) + ", got " +
                  std::string(name(v.dtype)));
  return v;
}
void check_bits(int bits) {
  if (bits < 1 || bits > 8) fail_argument("bits must be from 1 to 8, got " + std::to_string(bits));
}

void pack(py::handle codes, int bits, py::handle packed) {
  check_bits(bits);
  const View from = typed(codes, "codes", DType::u8, false), to = typed(packed, "out", DType::u8, true);
  check_count("out", packed_bytes(from.count, bits), to.count);
  py::gil_scoped_release released;
  pack_bits(static_cast<const uint8_t*>(from.data), from.count, bits, static_cast<uint8_t*>(to.data));
}

void unpack(py::handle packed, int bits, py::handle codes) {
  check_bits(bits);
  const View from = typed(packed, "packed", DType::u8, false), to = typed(codes, "out", DType::u8, true);
  check_count("packed", packed_bytes(to.count, bits), from.count);
  py::gil_scoped_release released;
  unpack_bits(static_cast<const uint8_t*>(from.data), to.count, bits, static_cast<uint8_t*>(to.data));
}

void hadamard(py::handle x, size_t block, py::handle out) {
  const View from = typed(x, "x", DType::f32, false), to = typed(out, "out", DType::f32, true);
  check_count("out", from.count, to.count);
  if (!std::has_single_bit(block) || block > (1u << 20))
    fail_argument("block must be a power of two up to 2^20, got " + std::to_string(block));
  if (from.count % block)
    fail_argument("x must hold a multiple of the block's " + std::to_string(block) + " elements, got " +
                  std::to_string(from.count) + ": pad it with zeros");
  py::gil_scoped_release released;
  walsh_hadamard(static_cast<const float*>(from.data), from.count, block, static_cast<float*>(to.data));
}

void randk(py::handle x, uint64_t seed, uint64_t step, py::handle values, py::handle indices) {
  const View from = view_of(x, false);
  if (!is_float(from.dtype)) fail_argument("x must hold floats, got " + std::string(name(from.dtype)));
  const View v = typed(values, "values", DType::f32, true), at = typed(indices, "indices", DType::i64, true);
  check_count("indices", v.count, at.count);
  if (v.count > from.count)
    fail_argument("k must be at most " + std::to_string(from.count) + ", the number of elements; got " +
                  std::to_string(v.count));
  py::gil_scoped_release released;
  auto* chosen = static_cast<int64_t*>(at.data);
  sample_indices(seed, step, from.count, at.count, chosen);
  for (size_t i = 0; i < at.count; ++i)
    kernels().load(
        from.dtype,
        static_cast<const std::byte*>(from.data) + static_cast<size_t>(chosen[i]) * size_of(from.dtype),
        nullptr, static_cast<float*>(v.data) + i, 1);
}

}  // namespace

void register_ops(py::module_& m) {
  m.def("pack_bits", &pack, py::arg("codes"), py::arg("bits"), py::arg("out"));
  m.def("unpack_bits", &unpack, py::arg("packed"), py::arg("bits"), py::arg("out"));
  m.def("hadamard", &hadamard, py::arg("x"), py::arg("block"), py::arg("out"));
  m.def("randk", &randk, py::arg("x"), py::arg("seed"), py::arg("step"), py::arg("values"),
        py::arg("indices"));
}

}  // namespace gw
