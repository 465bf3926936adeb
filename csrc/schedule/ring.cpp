// Ring: every rank talks to its two neighbours only, so it never asks a link for more than one stream.
//
// all_reduce, N bytes, n ranks, n chunks:
//   rounds 0 .. n-2       chunk c sets out from rank c+1; each rank adds its own value and passes the sum on, until
//                         rank c adds the last one and owns the finished chunk
//   rounds n-1 .. 2n-3    finished chunks go around once more, forwarded untouched
// reduce_scatter is the first phase alone, all_gather the second.
// Cost: 2 (n-1) rounds, 2 (n-1)/n N bytes a rank (the others: half of both): the least bytes of all, the most rounds.
// The ring visits the ranks in the topology's order, which avoids slow links; chunk c below is that of the rank at place c.
// Order of sums: chunk c adds ranks c+1, c+2, ... around to c, one after the other; in each addition the lower of
// the two neighbouring ranks stands first. A value is re-encoded at every hop: up to n times.
// Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.
#include "schedule/schedule.hpp"

namespace gw::ring {

bool supports(Collective c, int) {
  return c == Collective::all_reduce || c == Collective::reduce_scatter || c == Collective::all_gather;
}

Schedule make(const Part& part) {
  const int size = part.size;
  const bool reduces = part.collective != Collective::all_gather;
  const bool gathers = part.collective != Collective::reduce_scatter;
  const auto order = ring_order(part.topology, size);
  const int place = places_in(order)[static_cast<size_t>(part.rank)];
  const auto chunk = [&](int behind) {
    return order[static_cast<size_t>((place - behind + 2 * size) % size)];
  };
  const int next = chunk(-1), previous = chunk(1);
  std::vector<Step> steps;

  // In round k this rank sends the chunk that the neighbour behind it will send in round k+1.
  const int gather_round = reduces ? size - 1 : 0;
  for (int k = 0; reduces && k < size - 1; ++k) {
    steps.push_back({StepKind::send, chunk(k + 1), k, {next}, false});
    steps.push_back({StepKind::recv_reduce, chunk(k + 2), k, {previous}, k == size - 2});
  }
  for (int k = 0; gathers && k < size - 1; ++k) {
    steps.push_back({StepKind::send, chunk(k), gather_round + k, {next}, true});
    steps.push_back({StepKind::recv, chunk(k + 1), gather_round + k, {previous}, true});
  }

  Schedule s;
  s.chunks = size;
  s.lanes = {{std::move(steps)}};
  // n-1 partial sums and, if it is sent on, the finished one
  s.lossy_encodes = reduces && gathers ? size : reduces ? size - 1 : 1;
  s.nested_sums = reduces ? size - 1 : 0;
  return s;
}

}  // namespace gw::ring
