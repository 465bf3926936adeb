// Communicator and Work, as _native.pyi describes them. Everything that may wait runs without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>

#include "bindings/quick_py.hpp"
#include "bindings/transport_py.hpp"
#include "bindings/view_py.hpp"
#include "comm/communicator.hpp"

namespace py = pybind11;

namespace gw {
namespace {

// Destroying a Communicator joins its worker thread, which may be writing a log line through Python.
struct CloseWithoutGil {
  void operator()(Communicator* c) const {
    py::gil_scoped_release release;
    delete c;
  }
};

CallOptions options_of(const std::shared_ptr<Codec>& codec, std::string_view algorithm, double timeout) {
  CallOptions o;
  o.codec = codec;
  o.algorithm = algorithm == "auto" ? std::string_view{} : algorithm;
  if (timeout >= 0) o.timeout_s = timeout;
  return o;
}

void add_residual(CallOptions& o, py::handle residual) {
  if (!residual.is_none()) o.residual = any_view_of(residual, true);
}

std::shared_ptr<Work> start(Communicator& c, Collective collective, const View& in, const View& out,
                            const CallOptions& options, bool sync) {
  py::gil_scoped_release release;
  if (sync) {
    Work work = c.prepare(collective, in, out, options);
    c.run(work);
    return nullptr;
  }
  auto work = c.prepare_shared(collective, in, out, options);
  c.engine().submit(work);
  return work;
}

double monotonic(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration<double>(t.time_since_epoch()).count();
}

using Codecs = std::shared_ptr<Codec>;

void register_collectives(py::class_<Communicator, std::unique_ptr<Communicator, CloseWithoutGil>>& cls) {
  cls.def("quick_all_reduce", &quick_all_reduce_of);
  cls.def("all_reduce", [](Communicator& c, py::handle x, py::handle op, const Codecs& codec,
                           std::string_view algorithm, py::handle residual, bool sync, double timeout) {
    CallOptions o = options_of(codec, algorithm, timeout);
    o.op = reduce_op(op);
    add_residual(o, residual);
    const View v = any_view_of(x, true);
    return start(c, Collective::all_reduce, v, v, o, sync);
  });
  // A buffer of bytes that holds `count` elements of a dtype that the buffer's own kind may not have.
  cls.def("all_reduce_as",
          [](Communicator& c, py::handle buffer, size_t count, std::string_view dtype, py::handle op,
             const Codecs& codec, std::string_view algorithm, bool sync, double timeout) {
            CallOptions o = options_of(codec, algorithm, timeout);
            o.op = reduce_op(op);
            const View bytes = view_of(buffer, true);
            const View v{.data = bytes.data, .count = count, .dtype = dtype_named(dtype)};
            if (v.bytes() > bytes.bytes()) fail_argument("the buffer is too small for its elements");
            return start(c, Collective::all_reduce, v, v, o, sync);
          });
  cls.def(
      "reduce_scatter", [](Communicator& c, py::handle x, py::handle out, py::handle op, const Codecs& codec,
                           std::string_view algorithm, py::handle residual, bool sync, double timeout) {
        CallOptions o = options_of(codec, algorithm, timeout);
        o.op = reduce_op(op);
        add_residual(o, residual);
        return start(c, Collective::reduce_scatter, any_view_of(x, false), any_view_of(out, true), o, sync);
      });
  cls.def("all_gather", [](Communicator& c, py::handle x, py::handle out, const Codecs& codec,
                           std::string_view algorithm, bool sync, double timeout) {
    return start(c, Collective::all_gather, any_view_of(x, false), any_view_of(out, true),
                 options_of(codec, algorithm, timeout), sync);
  });
  cls.def("broadcast", [](Communicator& c, py::handle x, int root, const Codecs& codec,
                          std::string_view algorithm, bool sync, double timeout) {
    CallOptions o = options_of(codec, algorithm, timeout);
    o.peer = root;
    const View v = any_view_of(x, true);
    return start(c, Collective::broadcast, v, v, o, sync);
  });
  cls.def("all_to_all",
          [](Communicator& c, py::handle x, py::handle out, const Codecs& codec, bool sync, double timeout) {
            return start(c, Collective::all_to_all, any_view_of(x, false), any_view_of(out, true),
                         options_of(codec, "", timeout), sync);
          });
  cls.def("send", [](Communicator& c, py::handle x, int peer, uint32_t tag, bool sync, double timeout) {
    CallOptions o = options_of(nullptr, "", timeout);
    o.peer = peer;
    o.tag = tag;
    const View v = any_view_of(x, false);
    return start(c, Collective::send, v, v, o, sync);
  });
  cls.def("recv", [](Communicator& c, py::handle x, int peer, uint32_t tag, bool sync, double timeout) {
    CallOptions o = options_of(nullptr, "", timeout);
    o.peer = peer;
    o.tag = tag;
    const View v = any_view_of(x, true);
    return start(c, Collective::recv, v, v, o, sync);
  });
  cls.def("barrier", [](Communicator& c, bool sync, double timeout) {
    const View nothing{.data = nullptr, .count = 0, .dtype = DType::u8};
    return start(c, Collective::barrier, nothing, nothing, options_of(nullptr, "", timeout), sync);
  });
}

std::vector<std::pair<std::string, std::string>> peers_of(Communicator& c) {
  std::vector<std::pair<std::string, std::string>> peers;
  const Transport& t = c.engine().transport();
  for (int p = 0; p < c.size(); ++p) peers.emplace_back(p == c.rank() ? "self" : t.kind(p), t.host(p));
  return peers;
}

std::map<std::string, uint64_t> counters_of(Communicator& c) {
  const Counters n = c.engine().transport().counters();
  return {{"bytes_sent", n.bytes_sent},
          {"bytes_received", n.bytes_received},
          {"socket_bytes_sent", n.socket_bytes_sent},
          {"socket_bytes_received", n.socket_bytes_received},
          {"operations", c.engine().operations()},
          {"staging_bytes", c.engine().staging_bytes()},
          {"shared_bytes", Arena::process_bytes()}};
}

// (host number, machine number) of every rank.
std::vector<std::pair<int, int>> places_of(Communicator& c) {
  std::vector<std::pair<int, int>> places;
  const Transport& t = c.engine().transport();
  for (int p = 0; p < c.size(); ++p) places.emplace_back(t.host_number(p), t.machine_number(p));
  return places;
}

using LinkTuple = std::tuple<double, double, double, double>;
using TrialTuple = std::tuple<std::string, std::string, double, double>;

void set_costs(Communicator& c, const std::vector<LinkTuple>& links, std::vector<int> machine, int cores,
               double reduce, const std::map<std::string, std::pair<double, double>>& codecs,
               const std::vector<TrialTuple>& trials) {
  Costs costs{.links = {},
              .machine = std::move(machine),
              .cores = cores,
              .reduce_s_per_byte = reduce,
              .codecs = {},
              .trials = {}};
  for (const auto& [alpha, beta, message, touch] : links)
    costs.links.push_back({alpha, beta, message, touch});
  for (const auto& [name, rate] : codecs) costs.codecs[name] = {rate.first, rate.second};
  for (const auto& [codec, algo, raw_bytes, factor] : trials)
    costs.trials[codec].push_back({std::string(algorithm(algo).name), raw_bytes, factor});
  c.set_costs(std::move(costs));
}

py::list trace_of(Communicator& c) {
  std::vector<TraceEvent> events;
  {
    py::gil_scoped_release release;
    events = c.engine().trace_stop();
  }
  py::list out;
  for (const TraceEvent& e : events)
    out.append(py::make_tuple(e.name, monotonic(e.start), monotonic(e.end), e.seq, e.peer, e.chunk, e.segment,
                              e.bytes));
  return out;
}

}  // namespace

void register_comm(py::module_& m) {
  py::class_<Work, std::shared_ptr<Work>>(m, "Work")
      .def("done", &Work::over)
      .def(
          "wait",
          [](Work& w, double timeout) {
            py::gil_scoped_release release;
            w.wait(timeout < 0 ? std::nullopt : std::optional(Deadline::after_seconds(timeout)));
          },
          py::arg("timeout") = -1.0)
      .def_property_readonly("device", &Work::device)
      .def("order", [](const Work& w, py::handle array) { w.order(any_view_of(array, false).stream); })
      .def("seconds", [](const Work& w) {
        return py::make_tuple(monotonic(w.submitted), monotonic(w.started), monotonic(w.finished));
      });

  py::class_<Communicator, std::unique_ptr<Communicator, CloseWithoutGil>> cls(m, "Communicator");
  cls.def(py::init([](PyTransport& t, uint32_t epoch, const Config& config) {
       if (!t.transport) fail_argument("this transport already belongs to a communicator");
       return std::unique_ptr<Communicator, CloseWithoutGil>(
           new Communicator(std::move(t.transport), epoch, config));
     }))
      .def_property_readonly("rank", &Communicator::rank)
      .def_property_readonly("size", &Communicator::size)
      .def_property_readonly("epoch", &Communicator::epoch)
      .def("choose",
           [](const Communicator& c, size_t count, std::string_view dtype, const Codecs& codec) {
             return c.choose(Collective::all_reduce, count, dtype_named(dtype), codec).algorithm;
           })
      .def("explain",
           [](const Communicator& c, size_t count, std::string_view dtype, const Codecs& codec) {
             return c.choose(Collective::all_reduce, count, dtype_named(dtype), codec).explain();
           })
      .def_property_readonly("topology", &Communicator::topology)
      .def("set_topology", &Communicator::set_topology)
      .def("set_costs", &set_costs, py::arg("links"), py::arg("machine"), py::arg("cores"), py::arg("reduce"),
           py::arg("codecs"), py::arg("trials") = std::vector<TrialTuple>{})
      .def("use_gpu_peers", &Communicator::use_gpu_peers, py::arg("one_shot_below"))
      .def("places", &places_of)
      .def("measure_link",
           [](Communicator& c, int peer, bool leads) {
             py::gil_scoped_release release;
             const LinkTimes t = measure_link(c, peer, leads);
             return std::tuple(t.latency_s, t.message_s, t.byte_s);
           })
      .def("candidates",
           [](const Communicator& c, size_t count, std::string_view dtype, const Codecs& codec) {
             return c.choose(Collective::all_reduce, count, dtype_named(dtype), codec).candidates;
           })
      .def(
          "abort", [](Communicator& c, const std::string& reason) { c.engine().abort(reason); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "close", [](Communicator& c) { c.engine().close(); }, py::call_guard<py::gil_scoped_release>())
      .def("peers", &peers_of)
      .def("counters", &counters_of)
      .def(
          "trace_start", [](Communicator& c, size_t events) { c.engine().trace_start(events); },
          py::arg("events") = 100000, py::call_guard<py::gil_scoped_release>())
      .def("trace_stop", &trace_of);
  register_collectives(cls);
}

}  // namespace gw
