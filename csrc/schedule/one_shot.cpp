// One shot: everyone sends its whole input to everyone, and every rank does the whole reduction itself.
//
// all_reduce and barrier, N bytes (a barrier: none), n ranks, 1 chunk:
//   round 0  every rank sends its value to all peers, waits for all of theirs and folds them with its own
// Cost: 1 round, (n-1) N bytes a rank: the fewest rounds possible, for messages so small that bytes do not matter.
// Order of sums: rank order on every rank, so the replicas agree bit for bit though nobody sends them the result. A
// value is encoded once; a rank folds what its peers decoded of its own share, not the share itself.
// Source: the all-to-all exchange of Thakur, Rabenseifner and Gropp, 2005, section on short messages.
#include "schedule/schedule.hpp"

namespace gw::one_shot {

bool supports(Collective c, int) { return c == Collective::all_reduce || c == Collective::barrier; }

Schedule make(const Part& part) {
  const int rank = part.rank, size = part.size;
  std::vector<Step> steps;
  std::vector<int> others;
  for (int p = 0; p < size; ++p)
    if (p != rank) others.push_back(p);
  for (int k = 1; k < size; ++k) steps.push_back({StepKind::send, 0, 0, {(rank + k) % size}, false});
  steps.push_back({StepKind::recv_reduce, 0, 0, others, true});

  Schedule s;
  s.lanes = {{std::move(steps)}};
  s.nested_sums = 1;
  s.lossy_encodes = part.collective == Collective::barrier ? 0 : 1;  // a barrier has no values
  return s;
}

}  // namespace gw::one_shot
