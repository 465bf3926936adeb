// Schedules as plain Python objects, the proof, the price and the choice. Lists are copies: to change a schedule,
// take its lanes, edit them and assign them back.
#include <pybind11/operators.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/error.hpp"
#include "schedule/schedule.hpp"
#include "schedule/select.hpp"
#include "schedule/verify.hpp"

namespace py = pybind11;

namespace gw {
namespace {

Collective collective_named(const std::string& wanted) {
  std::string known;
  for (auto c = Collective::all_reduce; c <= Collective::recv;
       c = static_cast<Collective>(static_cast<int>(c) + 1)) {
    if (name(c) == wanted) return c;
    known += (known.empty() ? "" : ", ") + std::string(name(c));
  }
  fail_argument("unknown collective \"" + wanted + "\"; known: " + known);
}

StepKind kind_named(const std::string& wanted) {
  if (wanted == "send") return StepKind::send;
  if (wanted == "recv") return StepKind::recv;
  if (wanted == "recv_reduce") return StepKind::recv_reduce;
  fail_argument("unknown kind of step \"" + wanted + "\"; known: send, recv, recv_reduce");
}
const char* name_of(StepKind kind) {
  return kind == StepKind::send ? "send" : kind == StepKind::recv ? "recv" : "recv_reduce";
}

using Lanes = std::vector<std::vector<Step>>;

Lanes lanes_of(const Schedule& s) {
  Lanes lanes;
  for (const Lane& lane : s.lanes) lanes.push_back(lane.steps);
  return lanes;
}
void set_lanes(Schedule& s, Lanes lanes) {
  s.lanes.clear();
  for (auto& steps : lanes) s.lanes.push_back({std::move(steps)});
}

// The keywords that select and estimate share.
Question question(const std::string& collective, int size, size_t raw_bytes, double wire_ratio, bool lossy,
                  double gamma, size_t segment_bytes, double alpha, double beta) {
  return {.collective = collective_named(collective),
          .size = size,
          .raw_bytes = raw_bytes,
          .wire_ratio = wire_ratio,
          .lossy = lossy,
          .gamma_s_per_byte = gamma,
          .segment_bytes = segment_bytes,
          .link = {alpha, beta}};
}

void register_step(py::module_& m) {
  py::class_<Step>(m, "Step")
      .def(py::init([](const std::string& kind, int chunk, int round, std::vector<int> peers, bool complete,
                       bool raw) {
             return Step{kind_named(kind), chunk, round, std::move(peers), complete, raw};
           }),
           py::arg("kind"), py::arg("chunk"), py::arg("round"), py::arg("peers"), py::arg("complete") = false,
           py::arg("raw") = false)
      .def_property(
          "kind", [](const Step& s) { return name_of(s.kind); },
          [](Step& s, const std::string& kind) { s.kind = kind_named(kind); })
      .def_readwrite("chunk", &Step::chunk)
      .def_readwrite("round", &Step::round)
      .def_readwrite("peers", &Step::peers)
      .def_readwrite("complete", &Step::complete)
      .def_readwrite("raw", &Step::raw)
      .def("__repr__", [](const Step& s) {
        return py::str("Step({!r}, chunk={}, round={}, peers={}, complete={}, raw={})")
            .format(name_of(s.kind), s.chunk, s.round, s.peers, s.complete, s.raw);
      });
}

void register_topology(py::module_& m) {
  py::class_<Topology>(m, "Topology")
      .def(py::init([](std::vector<int> host, std::vector<int> order, std::vector<bool> slow) {
             return Topology{std::move(host), std::move(order), std::move(slow)};
           }),
           py::arg("host") = std::vector<int>{}, py::arg("order") = std::vector<int>{},
           py::arg("slow") = std::vector<bool>{})
      .def_readonly("host", &Topology::host)
      .def_readonly("order", &Topology::order)
      .def_readonly("slow", &Topology::slow)
      .def("check", &Topology::check)
      .def(py::self == py::self)
      .def("__repr__", [](const Topology& t) {
        return py::str("Topology(host={}, order={}, slow={})").format(t.host, t.order, t.slow);
      });
}

void register_plan_types(py::module_& m) {
  py::class_<Schedule>(m, "Schedule")
      .def(py::init([](std::string algorithm, const std::string& collective, int rank, int size, int root,
                       int chunks, Lanes lanes, int lossy_encodes, int nested_sums) {
             Schedule s{std::move(algorithm),
                        collective_named(collective),
                        rank,
                        size,
                        root,
                        chunks,
                        {},
                        lossy_encodes,
                        nested_sums};
             set_lanes(s, std::move(lanes));
             return s;
           }),
           py::arg("algorithm"), py::arg("collective"), py::arg("rank"), py::arg("size"), py::arg("root"),
           py::arg("chunks"), py::arg("lanes"), py::arg("lossy_encodes") = 0, py::arg("nested_sums") = 0)
      .def_readwrite("algorithm", &Schedule::algorithm)
      .def_property(
          "collective", [](const Schedule& s) { return std::string(name(s.collective)); },
          [](Schedule& s, const std::string& c) { s.collective = collective_named(c); })
      .def_readwrite("rank", &Schedule::rank)
      .def_readwrite("size", &Schedule::size)
      .def_readwrite("root", &Schedule::root)
      .def_readwrite("chunks", &Schedule::chunks)
      .def_property("lanes", &lanes_of, &set_lanes)
      .def_readwrite("lossy_encodes", &Schedule::lossy_encodes)
      .def_readwrite("nested_sums", &Schedule::nested_sums);

  py::class_<Candidate>(m, "Candidate")
      .def_readonly("algorithm", &Candidate::algorithm)
      .def_readonly("seconds", &Candidate::seconds)
      .def_readonly("rounds", &Candidate::rounds)
      .def_readonly("lossy_encodes", &Candidate::lossy_encodes)
      .def_readonly("nested_sums", &Candidate::nested_sums)
      .def_readonly("valid", &Candidate::valid)
      .def_readonly("reason", &Candidate::reason);
}

}  // namespace

void register_schedule(py::module_& m) {
  register_topology(m);
  register_step(m);
  register_plan_types(m);

  m.def("algorithms", [] {
    py::list all;
    for (const Algorithm& a : algorithms()) {
      py::dict one;
      one["name"] = std::string(a.name);
      one["id"] = static_cast<int>(a.id);
      one["summary"] = std::string(a.summary);
      all.append(one);
    }
    return all;
  });
  m.def(
      "supports",
      [](const std::string& algo, const std::string& collective, int size) {
        return algorithm(algo).supports(collective_named(collective), size);
      },
      py::arg("algorithm"), py::arg("collective"), py::arg("size"));
  m.def(
      "make_schedule",
      [](const std::string& algo, const std::string& collective, int rank, int size, int root,
         const Topology& topology) {
        return make_schedule(algo, {collective_named(collective), rank, size, root, topology});
      },
      py::arg("algorithm"), py::arg("collective"), py::arg("rank"), py::arg("size"), py::arg("root") = -1,
      py::arg("topology") = Topology{});
  m.def("verify", &verify, py::arg("ranks"), py::arg("segments") = 1, py::arg("depth") = 1,
        py::arg("capacity") = 1, py::call_guard<py::gil_scoped_release>());
  m.def("sum_order", &sum_order, py::arg("ranks"), py::arg("chunk"));
  m.def(
      "select",
      [](const std::string& collective, int size, size_t raw_bytes, double wire_ratio, bool lossy,
         double gamma, size_t segment_bytes, double alpha, double beta, bool rounding) {
        Question q =
            question(collective, size, raw_bytes, wire_ratio, lossy, gamma, segment_bytes, alpha, beta);
        q.rounding = rounding;
        const Choice c = select(q);
        return py::make_tuple(c.algorithm, c.candidates, c.explain());
      },
      py::arg("collective"), py::arg("size"), py::arg("raw_bytes"), py::arg("wire_ratio") = 1.0,
      py::arg("lossy") = false, py::arg("gamma") = 0.0, py::arg("segment_bytes") = 131072,
      py::arg("alpha") = 1e-6, py::arg("beta") = 1e-10, py::arg("rounding") = false);
  m.def(
      "estimate",
      [](const std::string& algo, const std::string& collective, int size, size_t raw_bytes,
         double wire_ratio, bool lossy, double gamma, size_t segment_bytes, double alpha, double beta) {
        return estimate(algo, question(collective, size, raw_bytes, wire_ratio, lossy, gamma, segment_bytes,
                                       alpha, beta));
      },
      py::arg("algorithm"), py::arg("collective"), py::arg("size"), py::arg("raw_bytes"),
      py::arg("wire_ratio") = 1.0, py::arg("lossy") = false, py::arg("gamma") = 0.0,
      py::arg("segment_bytes") = 131072, py::arg("alpha") = 1e-6, py::arg("beta") = 1e-10);
}

}  // namespace gw
