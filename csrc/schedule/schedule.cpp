#include "schedule/schedule.hpp"

#include "base/error.hpp"

namespace gw {

// What every algorithm file defines.
#define GW_ALGORITHM(id, algorithm, summary)      \
  namespace algorithm {                           \
  bool supports(Collective collective, int size); \
  Schedule make(const Part& part);                \
  }
#include "schedule/algorithms.def"
#undef GW_ALGORITHM

std::string_view name(Collective c) {
  constexpr std::string_view kNames[] = {"?",          "all_reduce", "reduce_scatter",
                                         "all_gather", "broadcast",  "all_to_all",
                                         "barrier",    "send",       "recv"};
  return kNames[c >= Collective::all_reduce && c <= Collective::recv ? static_cast<int>(c) : 0];
}

const std::vector<Algorithm>& algorithms() {
  static const std::vector<Algorithm> kAlgorithms = {
#define GW_ALGORITHM(id, algorithm, summary) \
  {#algorithm, id, summary, &algorithm::supports, &algorithm::make},
#include "schedule/algorithms.def"
#undef GW_ALGORITHM
  };
  return kAlgorithms;
}

const Algorithm& algorithm(std::string_view wanted) {
  std::string known;
  for (const Algorithm& a : algorithms()) {
    if (a.name == wanted) return a;
    known += (known.empty() ? "" : ", ") + std::string(a.name);
  }
  fail_argument("unknown algorithm \"" + std::string(wanted) + "\"; known: " + known);
}

namespace {

void check_place(const char* what, int value, int size) {
  if (value < 0 || value >= size)
    fail_argument(std::string(what) + " is " + std::to_string(value) + "; expected 0 to " +
                  std::to_string(size - 1) + ", the ranks of a group of " + std::to_string(size));
}

std::string names_for(Collective collective, int size) {
  std::string names;
  for (const Algorithm& a : algorithms())
    if (a.supports(collective, size)) names += (names.empty() ? "" : ", ") + std::string(a.name);
  return names.empty() ? "none" : names;
}

}  // namespace

Schedule make_schedule(std::string_view algorithm_name, const Part& part) {
  const Algorithm& a = algorithm(algorithm_name);
  const int size = part.size;
  if (size < 1) fail_argument("size is " + std::to_string(size) + "; a group has at least one rank");
  check_place("rank", part.rank, size);
  if (part.collective == Collective::broadcast) check_place("root", part.root, size);
  part.topology.check(size);
  if (!a.supports(part.collective, size))
    fail_argument("algorithm \"" + std::string(a.name) + "\" does not support " +
                  std::string(name(part.collective)) + " of " + std::to_string(size) +
                  " ranks; algorithms that do: " + names_for(part.collective, size));
  // Alone there is nothing to send and nothing to encode, whatever the algorithm.
  Schedule s = size == 1 ? Schedule{} : a.make(part);
  s.algorithm = a.name;
  s.collective = part.collective;
  s.rank = part.rank;
  s.size = size;
  s.root = part.collective == Collective::broadcast ? part.root : -1;
  return s;
}

Schedule p2p_schedule(Collective collective, int rank, int size, int peer) {
  const bool sends = collective == Collective::send;
  if (!sends && collective != Collective::recv)
    fail_argument(std::string(name(collective)) + " is not point to point; expected send or recv");
  check_place("rank", rank, size);
  check_place("peer", peer, size);
  if (peer == rank)
    fail_argument("peer is this rank itself, " + std::to_string(rank) + "; expected another rank");
  Schedule s;
  s.collective = collective;
  s.rank = rank;
  s.size = size;
  s.lossy_encodes = 1;
  s.lanes = {{{{.kind = sends ? StepKind::send : StepKind::recv,
                .chunk = 0,
                .round = 0,
                .peers = {peer},
                .complete = true}}}};
  return s;
}

}  // namespace gw
