// _native.gpu.Peers: ranks that are all on one GPU of this process.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "bindings/quick_py.hpp"
#include "bindings/view_py.hpp"
#include "comm/host_peers.hpp"
#include "comm/peer_choice.hpp"
#include "comm/peers.hpp"

namespace py = pybind11;

namespace gw {
namespace {

std::vector<View> views_of(const py::sequence& arrays) {
  std::vector<View> views;
  for (const py::handle array : arrays) views.push_back(any_view_of(array, true));
  return views;
}

PeerCall call_of(py::handle op, const std::shared_ptr<Codec>& codec, const std::string& algorithm,
                 const py::sequence& residuals, double timeout) {
  return {.op = reduce_op(op),
          .codec = codec,
          .algorithm = algorithm == "auto" ? std::string() : algorithm,
          .residuals = views_of(residuals),
          .timeout_s = timeout};
}

void all_reduce(Peers& peers, const py::sequence& arrays, py::handle op, const std::shared_ptr<Codec>& codec,
                const std::string& algorithm, const py::sequence& residuals, double timeout, bool streams,
                std::vector<int> silent) {
  PeerCall call = call_of(op, codec, algorithm, residuals, timeout);
  call.streams = streams;
  call.silent = std::move(silent);
  const std::vector<View> views = views_of(arrays);
  py::gil_scoped_release released;
  peers.all_reduce(views, call);
}

std::unique_ptr<gpu::Graph> record(Peers& peers, const py::sequence& arrays, py::handle op,
                                   const std::shared_ptr<Codec>& codec, const std::string& algorithm,
                                   const py::sequence& residuals, double timeout) {
  const PeerCall call = call_of(op, codec, algorithm, residuals, timeout);
  const std::vector<View> views = views_of(arrays);
  py::gil_scoped_release released;
  return peers.record(views, call);
}

// All ranks' addresses, in rank order.
void connect(HostPeers& peers, const std::string& all) {
  if (all.size() != sizeof(PeerAddress) * static_cast<size_t>(peers.size()))
    fail_argument("expected " + std::to_string(sizeof(PeerAddress)) + " bytes from each of the " +
                  std::to_string(peers.size()) + " ranks, got " + std::to_string(all.size()));
  for (int p = 0; p < peers.size(); ++p) {
    PeerAddress address;
    std::memcpy(&address, all.data() + static_cast<size_t>(p) * sizeof(address), sizeof(address));
    if (p != peers.rank()) peers.connect(p, address);
  }
}

void register_host_peers(py::module_& m) {
  py::class_<HostPeers>(m, "HostPeers")
      .def(py::init<int, int, int>(), py::arg("device"), py::arg("rank"), py::arg("size"))
      .def_property_readonly("rank", &HostPeers::rank)
      .def_property_readonly("size", &HostPeers::size)
      .def("ready",
           [](HostPeers& peers, py::handle x, py::handle op, const std::shared_ptr<Codec>& codec,
              const std::string& algorithm, const py::sequence& residuals, double timeout) {
             return peers.ready(any_view_of(x, true), call_of(op, codec, algorithm, residuals, timeout));
           })
      .def("grow",
           [](HostPeers& peers) {
             gpu::synchronize_device(peers.device());  // a kernel may still be in the memory that is let go
             peers.grow();
             return py::bytes(reinterpret_cast<const char*>(&peers.address()), sizeof(PeerAddress));
           })
      .def("connect", &connect)
      .def("all_reduce",
           [](HostPeers& peers, py::handle x, py::handle op, const std::shared_ptr<Codec>& codec,
              const std::string& algorithm, const py::sequence& residuals, double timeout) {
             const View v = any_view_of(x, true);
             const PeerCall call = call_of(op, codec, algorithm, residuals, timeout);
             py::gil_scoped_release released;
             peers.all_reduce(v, call, peers.seq());
           })
      .def(
          "synchronize",
          [](HostPeers& peers, uintptr_t stream) { peers.synchronize(reinterpret_cast<void*>(stream)); },
          py::arg("stream") = 0, py::call_guard<py::gil_scoped_release>());
}

}  // namespace

void register_peers(py::module_& m) {
  m.attr("MOST_PEERS") = static_cast<int>(GW_MOST_PEERS);
  m.def("one_shot_below", &one_shot_below, py::arg("ranks"));
  py::class_<gpu::Graph>(m, "Graph")
      .def(
          "launch", [](const gpu::Graph& g, uintptr_t stream) { g.launch(reinterpret_cast<void*>(stream)); },
          py::arg("stream") = 0, py::call_guard<py::gil_scoped_release>());
  register_host_peers(m);
  py::class_<Peers>(m, "Peers")
      .def(py::init<int, int>(), py::arg("device"), py::arg("ranks"))
      .def_property_readonly("size", &Peers::size)
      .def_property_readonly("device", &Peers::device)
      .def_property_readonly("seq", &Peers::seq)
      .def("all_reduce", &all_reduce, py::arg("arrays"), py::arg("op"), py::arg("codec"),
           py::arg("algorithm"), py::arg("residuals"), py::arg("timeout"), py::arg("streams") = false,
           py::arg("silent") = std::vector<int>{})
      .def("record", &record, py::arg("arrays"), py::arg("op"), py::arg("codec"), py::arg("algorithm"),
           py::arg("residuals"), py::arg("timeout"))
      .def(
          "synchronize",
          [](Peers& peers, uintptr_t stream) { peers.synchronize(reinterpret_cast<void*>(stream)); },
          py::arg("stream") = 0, py::call_guard<py::gil_scoped_release>());
}

}  // namespace gw
