// Hierarchical: sum inside each host first, so that what crosses the slow links between hosts is one share a host, and
// the codec is used there only. Any all-reduce can do the crossing; this file makes one algorithm of each in kAcross.
//
// all_reduce, N bytes, H hosts with at least L ranks each, L times as many chunks as the crossing has:
//   inside   rank j of a host (the first L) owns the chunks of share j; the others send theirs to it, raw, round 0
//   across   the ranks j of all hosts all-reduce share j among themselves
//   inside   owners hand finished chunks to their host, raw, one round after each is finished
// Cost: the crossing's rounds + 2; of the crossing's bytes 1/L a rank, and 2 N (m-1)/m inside a host of m ranks.
// Order of sums: within a host in rank order, then that of the crossing: (0+1)+(2+3). Lossy encodes: the crossing's.
// Source: Träff and Rougier, "MPI collectives and datatypes for hierarchical all-reduce communication", 2014.
#include <algorithm>
#include <map>

#include "schedule/schedule.hpp"

namespace gw {
namespace {

// The hosts as if each were one rank.
Topology topology_of_hosts(const Topology& topology, const std::vector<std::vector<int>>& hosts) {
  Topology t;
  std::map<int, int> host_of;
  for (size_t h = 0; h < hosts.size(); ++h)
    for (int rank : hosts[h]) host_of[rank] = static_cast<int>(h);
  for (size_t h = 0; h < hosts.size(); ++h) t.host.push_back(static_cast<int>(h));
  for (int rank : topology.order)
    if (std::ranges::find(t.order, host_of[rank]) == t.order.end()) t.order.push_back(host_of[rank]);
  if (!topology.slow.empty())
    for (const auto& ranks : hosts)
      t.slow.push_back(
          std::ranges::all_of(ranks, [&](int r) { return topology.slow[static_cast<size_t>(r)]; }));
  return t;
}

struct Crossing {
  Schedule schedule;            // this host's part; alone, nothing but one chunk
  std::vector<int> lane_of;     // [chunk]
  std::vector<int> last_round;  // [chunk] in which this host's copy is finished
  size_t lanes = 1;

  Crossing(std::string_view algorithm, int host, int hosts, const Topology& topology)
      : schedule(make_schedule(algorithm, {Collective::all_reduce, host, hosts, -1, topology})) {
    lane_of.assign(static_cast<size_t>(schedule.chunks), 0);
    last_round.assign(static_cast<size_t>(schedule.chunks), -1);
    lanes = std::max<size_t>(1, schedule.lanes.size());
    for (size_t lane = 0; lane < schedule.lanes.size(); ++lane)
      for (const Step& s : schedule.lanes[lane].steps) {
        lane_of[static_cast<size_t>(s.chunk)] = static_cast<int>(lane);
        if (s.kind != StepKind::send) last_round[static_cast<size_t>(s.chunk)] = s.round;
      }
  }
};

Schedule make_hierarchical(const Part& part, std::string_view across) {
  const auto hosts = ranks_by_host(part.topology, part.size);
  const auto here = std::ranges::find_if(
      hosts, [&](const auto& ranks) { return std::ranges::find(ranks, part.rank) != ranks.end(); });
  const std::vector<int>& local = *here;
  const auto by_length = [](const auto& a, const auto& b) { return a.size() < b.size(); };
  const size_t owners = std::ranges::min_element(hosts, by_length)->size();
  const bool crowded = std::ranges::max_element(hosts, by_length)->size() > 1;
  const int first = crowded ? 1 : 0;
  const Crossing crossing(across, static_cast<int>(here - hosts.begin()), static_cast<int>(hosts.size()),
                          topology_of_hosts(part.topology, hosts));
  const int parts = crossing.schedule.chunks;
  const auto share = static_cast<size_t>(std::ranges::find(local, part.rank) - local.begin());
  const bool owns = share < owners;

  Schedule s;
  s.lanes.resize(crossing.lanes);
  const auto add = [&](int lane, StepKind kind, size_t owner, int c, int round, std::vector<int> peers,
                       bool complete, bool raw) {
    if (peers.empty()) return;
    std::ranges::sort(peers);
    s.lanes[static_cast<size_t>(lane)].steps.push_back(
        {kind, static_cast<int>(owner) * parts + c, round, std::move(peers), complete, raw});
  };
  std::vector<int> others;
  for (int rank : local)
    if (rank != part.rank) others.push_back(rank);

  for (int c = 0; c < parts; ++c) {
    const int lane = crossing.lane_of[static_cast<size_t>(c)];
    for (size_t k = 1; k < local.size() + 1; ++k) {  // the next owner first, so that not all send to the same
      const size_t owner = (share + k) % local.size();
      if (owner < owners && owner != share)
        add(lane, StepKind::send, owner, c, 0, {local[owner]}, false, true);
    }
    if (owns) add(lane, StepKind::recv_reduce, share, c, 0, others, hosts.size() == 1, true);
  }
  for (size_t lane = 0; owns && lane < crossing.schedule.lanes.size(); ++lane)
    for (const Step& step : crossing.schedule.lanes[lane].steps) {
      std::vector<int> peers;
      for (int host : step.peers) peers.push_back(hosts[static_cast<size_t>(host)][share]);
      add(static_cast<int>(lane), step.kind, share, step.chunk, first + step.round, std::move(peers),
          step.complete, step.raw);
    }
  for (int c = 0; c < parts; ++c) {
    const int lane = crossing.lane_of[static_cast<size_t>(c)];
    const int round = first + crossing.last_round[static_cast<size_t>(c)] + 1;
    for (size_t k = 1; owns && k < local.size(); ++k)
      add(lane, StepKind::send, share, c, round, {local[(share + k) % local.size()]}, true, true);
    for (size_t k = 1; k < local.size() + 1; ++k) {
      const size_t owner = (share + local.size() - k % local.size()) % local.size();
      if (owner < owners && owner != share)
        add(lane, StepKind::recv, owner, c, round, {local[owner]}, true, true);
    }
  }
  for (Lane& lane : s.lanes)
    std::ranges::stable_sort(lane.steps, {}, [](const Step& step) { return step.round; });

  s.chunks = static_cast<int>(owners) * parts;
  s.lossy_encodes = crossing.schedule.lossy_encodes;
  s.nested_sums = crossing.schedule.nested_sums + (crowded ? 1 : 0);
  s.raw = crowded;
  return s;
}

}  // namespace

#define GW_HIERARCHICAL(algorithm, across)                                    \
  namespace algorithm {                                                       \
  bool supports(Collective c, int) { return c == Collective::all_reduce; }    \
  Schedule make(const Part& part) { return make_hierarchical(part, across); } \
  }
GW_HIERARCHICAL(hierarchical, "direct")
GW_HIERARCHICAL(hierarchical_ring, "ring")
GW_HIERARCHICAL(hierarchical_tree, "double_tree")
#undef GW_HIERARCHICAL

}  // namespace gw
