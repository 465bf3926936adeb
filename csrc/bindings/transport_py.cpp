// Config, rendezvous and the in-process hub.
#include "bindings/transport_py.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/config.hpp"
#include "base/error.hpp"
#include "transport/address.hpp"
#include "transport/endpoint.hpp"

namespace py = pybind11;

namespace gw {
namespace {

// The hub knows its size; its header does not tell.
struct PyHub {
  PyHub(int n, size_t channel_bytes) : hub(n, channel_bytes), size(n) {}
  InprocHub hub;
  int size;
};

void register_config(py::module_& m) {
  py::class_<Config>(m, "Config")
      .def(py::init<>())
      .def_static("from_env", &Config::from_env)
      .def("check", &Config::check)
      .def_readwrite("timeout_s", &Config::timeout_s)
      .def_readwrite("transport", &Config::transport)
      .def_readwrite("sockets", &Config::sockets)
      .def_readwrite("congestion", &Config::congestion)
      .def_readwrite("heartbeat_s", &Config::heartbeat_s)
      .def_readwrite("channel_bytes", &Config::channel_bytes)
      .def_readwrite("segment_bytes", &Config::segment_bytes)
      .def_readwrite("spin_us", &Config::spin_us)
      .def_readwrite("ifname", &Config::ifname)
      .def_readwrite("topology", &Config::topology)
      .def_readwrite("deterministic", &Config::deterministic)
      .def_readwrite("gpu_peers", &Config::gpu_peers);
}

std::unique_ptr<Endpoint> make_endpoint(int rank, int size, uint32_t epoch, const py::bytes& secret,
                                        const std::string& address, const Config& config) {
  // so that Ctrl-C ends the wait for ranks that never come
  const auto idle = [] {
    py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  };
  EndpointOptions options{rank, size, epoch, secret, address, config, idle};
  py::gil_scoped_release release;
  return std::make_unique<Endpoint>(std::move(options));
}

PyTransport connect(Endpoint& endpoint, const std::vector<py::bytes>& blobs, double timeout) {
  const Deadline deadline = Deadline::after_seconds(timeout);
  const std::vector<std::string> copies(blobs.begin(), blobs.end());
  py::gil_scoped_release release;
  return {endpoint.connect(copies, deadline)};
}

}  // namespace

void register_transport(py::module_& m) {
  register_config(m);
  py::class_<PyTransport>(m, "Transport");
  py::class_<Endpoint>(m, "Endpoint")
      .def(py::init(&make_endpoint), py::arg("rank"), py::arg("size"), py::arg("epoch"), py::arg("secret"),
           py::arg("address"), py::arg("config"))
      .def("blob", [](const Endpoint& e) { return py::bytes(e.blob()); })
      .def("connect", &connect, py::arg("blobs"), py::arg("timeout"));
  py::class_<PyHub>(m, "InprocHub")
      .def(py::init<int, size_t>(), py::arg("size"), py::arg("channel_bytes") = size_t{512} << 10)
      .def_readonly("size", &PyHub::size)
      .def(
          "connect", [](PyHub& h, int rank) { return PyTransport{h.hub.connect(rank)}; }, py::arg("rank"))
      .def(
          "delay", [](PyHub& h, int src, int dst, double seconds) { h.hub.delay(src, dst, seconds); },
          py::arg("src"), py::arg("dst"), py::arg("seconds"))
      .def(
          "drop", [](PyHub& h, int src, int dst) { h.hub.drop(src, dst); }, py::arg("src"), py::arg("dst"))
      .def("close", [](PyHub& h, int rank) { h.hub.close(rank); }, py::arg("rank"));
  m.def("local_address_toward", &local_address_toward, py::arg("host"), py::arg("port"),
        py::call_guard<py::gil_scoped_release>());
  m.def("reachable_addresses", &reachable_addresses);
  m.def("address_of_interface", &address_of_interface, py::arg("name"));
}

}  // namespace gw
