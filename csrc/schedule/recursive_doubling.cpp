// Recursive doubling: in each round partners exchange all they have and both add, so that every round doubles the number
// of ranks in the sum: the fewest rounds with one message a rank and round, for small arrays over slow links.
//
// all_reduce, N bytes, n ranks, 1 chunk, p = the largest power of two up to n, r = n - p:
//   round 0             (r > 0) of the first 2r ranks the odd ones give theirs to the even one before them and step back
//   rounds 1 .. log2 p  exchange with the rank 1, 2, 4, ... places away among those that take part, and add
//   last round          (r > 0) the even ones give the result back
// Cost: log2 p rounds (+ 2), log2 p N bytes a rank.
// Order of sums: (0+1)+(2+3). Both partners add the same two sums, lower ranks first, so the replicas agree. Their
// messages are raw, whatever the codec: a partial sum that both encode would be lost twice and counted once.
// Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", 2005.
#include <bit>

#include "schedule/schedule.hpp"

namespace gw::recursive_doubling {

bool supports(Collective c, int) { return c == Collective::all_reduce; }

Schedule make(const Part& part) {
  const int rank = part.rank, n = part.size;
  const int p = static_cast<int>(std::bit_floor(static_cast<unsigned>(n))), extra = n - p;
  const int doublings = std::countr_zero(static_cast<unsigned>(p)), first = extra ? 1 : 0;
  const auto rank_at = [&](int place) { return place < extra ? 2 * place : place + extra; };
  const auto step = [](StepKind kind, int round, int peer, bool complete) {
    return Step{kind, 0, round, {peer}, complete, true};
  };
  const int last = first + doublings;

  std::vector<Step> steps;
  if (rank < 2 * extra && rank % 2) {
    steps = {step(StepKind::send, 0, rank - 1, false), step(StepKind::recv, last, rank - 1, true)};
  } else {
    if (rank < 2 * extra) steps.push_back(step(StepKind::recv_reduce, 0, rank + 1, false));
    const int place = rank < 2 * extra ? rank / 2 : rank - extra;
    for (int k = 0; k < doublings; ++k) {
      const int partner = rank_at(place ^ (1 << k));
      steps.push_back(step(StepKind::send, first + k, partner, false));
      steps.push_back(step(StepKind::recv_reduce, first + k, partner, k == doublings - 1));
    }
    if (rank < 2 * extra) steps.push_back(step(StepKind::send, last, rank + 1, true));
  }

  Schedule s;
  s.lanes = {{std::move(steps)}};
  s.nested_sums = doublings + first;
  s.raw = true;
  return s;
}

}  // namespace gw::recursive_doubling
