// The loops of PowerSGD on arrays: shapes are checked here, then the GIL is dropped.
#include <pybind11/pybind11.h>

#include <string>

#include "base/error.hpp"
#include "bindings/view_py.hpp"
#include "codec/isa.hpp"

namespace py = pybind11;

namespace gw {
namespace {

struct Matrix {
  float* data;
  size_t rows, cols;
};

Matrix matrix_of(py::handle array, const char* what, bool writable) {
  const View v = view_of(array, writable);
  const py::object shape = py::getattr(array, "shape", py::none());
  if (v.dtype != DType::f32 || shape.is_none() || py::len(shape) != 2)
    fail_argument(std::string(what) + " must be a float32 array of two dimensions");
  const auto sizes = shape.cast<py::sequence>();
  return {static_cast<float*>(v.data), sizes[0].cast<size_t>(), sizes[1].cast<size_t>()};
}

void check_equal(const char* what, size_t expected, size_t got) {
  if (expected != got)
    fail_argument(std::string(what) + ": expected " + std::to_string(expected) + ", got " +
                  std::to_string(got));
}

void check_factors(const Matrix& m, const Matrix& p, const Matrix& q) {
  check_equal("rank of p and q", p.rows, q.rows);
  check_equal("columns of p, the rows of the matrix", m.rows, p.cols);
  check_equal("columns of q, those of the matrix", m.cols, q.cols);
}

void project(py::handle matrix, py::handle q_array, py::handle p_array) {
  const Matrix m = matrix_of(matrix, "m", false), q = matrix_of(q_array, "q", false),
               p = matrix_of(p_array, "p", true);
  check_factors(m, p, q);
  py::gil_scoped_release released;
  isa_table().low_rank.project(m.data, m.rows, m.cols, q.rows, q.data, p.data);
}

void back_project(py::handle matrix, py::handle p_array, py::handle q_array) {
  const Matrix m = matrix_of(matrix, "m", false), p = matrix_of(p_array, "p", false),
               q = matrix_of(q_array, "q", true);
  check_factors(m, p, q);
  py::gil_scoped_release released;
  isa_table().low_rank.back_project(m.data, m.rows, m.cols, p.rows, p.data, q.data);
}

void restore(py::handle p_array, py::handle q_array, py::handle matrix, py::handle out_array) {
  const Matrix p = matrix_of(p_array, "p", false), q = matrix_of(q_array, "q", false),
               out = matrix_of(out_array, "out", true);
  check_factors(out, p, q);
  Matrix m{nullptr, out.rows, out.cols};
  if (!matrix.is_none()) {
    m = matrix_of(matrix, "m", true);
    check_factors(m, p, q);
    if (m.data == out.data) fail_argument("m and out must be two arrays");
  }
  py::gil_scoped_release released;
  isa_table().low_rank.restore(p.data, q.data, out.rows, out.cols, p.rows, m.data, out.data);
}

size_t orthonormalize(py::handle p_array) {
  const Matrix p = matrix_of(p_array, "p", true);
  py::gil_scoped_release released;
  return isa_table().low_rank.orthonormalize(p.data, p.cols, p.rows);
}

}  // namespace

void register_low_rank(py::module_& m) {
  m.def("low_rank_project", &project, py::arg("m"), py::arg("q"), py::arg("p"));
  m.def("low_rank_back_project", &back_project, py::arg("m"), py::arg("p"), py::arg("q"));
  m.def("low_rank_restore", &restore, py::arg("p"), py::arg("q"), py::arg("m"), py::arg("out"));
  m.def("orthonormalize", &orthonormalize, py::arg("p"));
}

}  // namespace gw
