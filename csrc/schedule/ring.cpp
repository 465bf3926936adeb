// Ring: every rank talks to its two neighbours only, so it never asks a link for more than one stream.
//
// all_reduce, N bytes, n ranks, n chunks:
//   rounds 0 .. n-2       chunk c sets out from rank c+1; each rank adds its own value and passes the sum on, until
//                         rank c adds the last one and owns the finished chunk
//   rounds n-1 .. 2n-3    finished chunks go around once more, forwarded untouched
// all_gather is the second phase alone.
// Cost: 2 (n-1) rounds, 2 (n-1)/n N bytes a rank (all_gather: half of both): the least bytes of all, the most rounds.
// Order of sums: chunk c adds ranks c+1, c+2, ... around to c, one after the other; in each addition the lower of
// the two neighbouring ranks stands first. A value is re-encoded at every hop: up to n times.
// Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.
#include "schedule/schedule.hpp"

namespace gw::ring {

bool supports(Collective c, int) { return c == Collective::all_reduce || c == Collective::all_gather; }

Schedule make(Collective c, int rank, int size, int) {
  const bool reduces = c == Collective::all_reduce;
  const int next = (rank + 1) % size, previous = (rank - 1 + size) % size;
  const auto chunk = [&](int behind) { return (rank - behind + 2 * size) % size; };
  std::vector<Step> steps;

  // In round k this rank sends the chunk that the neighbour behind it will send in round k+1.
  const int gather_round = reduces ? size - 1 : 0;
  for (int k = 0; reduces && k < size - 1; ++k) {
    steps.push_back({StepKind::send, chunk(k + 1), k, {next}, false});
    steps.push_back({StepKind::recv_reduce, chunk(k + 2), k, {previous}, k == size - 2});
  }
  for (int k = 0; k < size - 1; ++k) {
    steps.push_back({StepKind::send, chunk(k), gather_round + k, {next}, true});
    steps.push_back({StepKind::recv, chunk(k + 1), gather_round + k, {previous}, true});
  }

  Schedule s;
  s.chunks = size;
  s.lanes = {{std::move(steps)}};
  s.lossy_encodes = reduces ? size : 1;  // n-1 partial sums and the finished one
  return s;
}

}  // namespace gw::ring
