// The all_reduce of training loops: no codec, nothing to choose, synchronous. Called with plain arguments and without
// pybind11's argument conversion, which costs more than the rest of a 1 KiB call inside a host (0.5 us, 2026-11).
// codec="auto" comes in here as well, because where it takes none it must cost nothing: 20 ns are 3 % of a small call.
#include "bindings/quick_py.hpp"

#include <exception>

#include "bindings/view_py.hpp"

namespace py = pybind11;

namespace gw {
namespace {

// Raises what was thrown, with pybind11's translation of our errors.
PyObject* raise(std::exception_ptr error) {
  static thread_local std::exception_ptr pending;
  static const py::handle rethrow =
      py::cpp_function([] { std::rethrow_exception(std::exchange(pending, nullptr)); }).release();
  pending = std::move(error);
  return PyObject_CallNoArgs(rethrow.ptr());
}

bool is_auto(PyObject* codec) {
  static PyObject* const text = PyUnicode_InternFromString("auto");
  return codec == text || (PyUnicode_Check(codec) && PyUnicode_CompareWithASCIIString(codec, "auto") == 0);
}

struct Target {
  Communicator* communicator;
  py::object owner;
};
constexpr const char* kCapsule = "gradwire.quick_all_reduce";

PyObject* quick_all_reduce(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  std::exception_ptr error;
  try {
    if (count != 4)
      fail_argument("expected an array, an op, a codec and a size, got " + std::to_string(count) +
                    " arguments");
    if (args[2] != Py_None && !is_auto(args[2])) Py_RETURN_FALSE;
    auto& target = *static_cast<Target*>(PyCapsule_GetPointer(self, kCapsule));
    CallOptions options;
    options.op = reduce_op(py::handle(args[1]));
    const View view = any_view_of(args[0], true);
    if (args[2] != Py_None && view.bytes() >= PyLong_AsSize_t(args[3])) Py_RETURN_FALSE;
    py::gil_scoped_release release;
    Work work = target.communicator->prepare(Collective::all_reduce, view, view, options);
    target.communicator->run(work);
  } catch (...) {
    error = std::current_exception();
  }
  if (error) return raise(std::move(error));
  Py_RETURN_TRUE;
}

PyMethodDef kMethod = {"all_reduce",
                       reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(quick_all_reduce)),
                       METH_FASTCALL, "all_reduce(x, op, codec, below): in place, on the calling thread"};

}  // namespace

ReduceOp reduce_op(py::handle text) {
  static PyObject* const sum = PyUnicode_InternFromString("sum");
  if (text.ptr() == sum) return ReduceOp::sum;
  const auto wanted = py::isinstance<py::str>(text) ? text.cast<std::string>() : std::string(py::repr(text));
  for (auto o : {ReduceOp::sum, ReduceOp::avg, ReduceOp::min, ReduceOp::max, ReduceOp::prod})
    if (name(o) == wanted) return o;
  fail_argument("op must be sum, avg, min, max or prod, got '" + wanted + "'");
}

py::object quick_all_reduce_of(py::object communicator) {
  auto* target = new Target{communicator.cast<Communicator*>(), communicator};
  py::capsule self(target, kCapsule, [](PyObject* capsule) {
    delete static_cast<Target*>(PyCapsule_GetPointer(capsule, kCapsule));
  });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&kMethod, self.ptr()));
}

}  // namespace gw
