// Errors, log lines and build facts.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>

#include "base/error.hpp"
#include "base/log.hpp"
#include "bindings/view_py.hpp"

namespace py = pybind11;

namespace gw {
namespace {

constexpr std::array<const char*, 12> kKindNames = {"",          "argument", "mismatch", "timeout",
                                                    "peer_lost", "aborted",  "frame",    "rendezvous",
                                                    "closed",    "internal", "codec",    "gpu"};

// Python types by kind; leaked on purpose, the interpreter may be gone when statics are destroyed.
std::array<py::object, kKindNames.size()>& error_types() {
  static auto* types = new std::array<py::object, kKindNames.size()>;
  return *types;
}

void set_error_types(const std::map<std::string, py::object>& types) {
  for (size_t k = 1; k < kKindNames.size(); ++k) {
    const auto it = types.find(kKindNames[k]);
    if (it == types.end()) fail_argument(std::string("no error type for ") + kKindNames[k]);
    error_types()[k] = it->second;
  }
}

void raise(const Error& e) {
  const auto kind = static_cast<size_t>(e.kind());
  const py::object& type = error_types()[kind];
  if (!type) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
    return;
  }
  const ErrorContext& c = e.context();
  py::object error = type(e.what());
  error.attr("rank") = c.peer < 0 ? py::object(py::none()) : py::int_(c.peer);
  error.attr("host") = c.host.empty() ? py::object(py::none()) : py::str(c.host);
  error.attr("op") = c.op.empty() ? py::object(py::none()) : py::str(c.op);
  error.attr("seq") = c.op.empty() ? py::object(py::none()) : py::int_(c.seq);
  error.attr("step") = c.step < 0 ? py::object(py::none()) : py::int_(c.step);
  PyErr_SetObject(type.ptr(), error.ptr());
}

}  // namespace

void register_base(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Error& e) {
      raise(e);
    }
  });
  m.def("set_error_types", &set_error_types);
  m.def("set_log_sink", [](py::object sink) {
    if (sink.is_none()) return set_log_sink({});
    auto* keep = new py::object(std::move(sink));  // one per call, released with the process
    set_log_sink([keep](LogLevel level, const std::string& line) {
      py::gil_scoped_acquire gil;
      (*keep)(static_cast<int>(level), line);
    });
  });
  m.def("array_info", [](py::handle x) {
    const View v = any_view_of(x, false);
    return py::make_tuple(reinterpret_cast<uintptr_t>(v.data), v.count, std::string(name(v.dtype)));
  });
  m.def("build_info",
        [] { return std::map<std::string, std::string>{{"compiler", __VERSION__}, {"cplusplus", "20"}}; });
}

}  // namespace gw
