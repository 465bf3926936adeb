// Recursive halving and doubling: partners exchange halves of what they still have to sum, then halves of that, until
// each owns one chunk; then the same way back. The bytes of a ring in logarithmically many rounds.
//
// all_reduce, N bytes, n ranks, p = the largest power of two up to n, p chunks, r = n - p:
//   round 0                     (r > 0) of the first 2r ranks the odd ones give theirs to the even one before them
//   rounds 1 .. log2 p          with the rank p/2, p/4, ... places away: send the half that it will own, add its half
//   rounds .. 2 log2 p          with the rank 1, 2, ... places away: exchange all chunks that are finished
//   last round                  (r > 0) the even ones give the result back
// Cost: 2 log2 p rounds (+ 2), 2 (p-1)/p N bytes a rank (a rank with a partner of its own: + N).
// Order of sums: the sums of (rank mod p/2), lower ranks first: (0+2)+(1+3). A value is re-encoded in every round.
// Source: Rabenseifner, "Optimization of collective reduction operations", 2004.
#include <bit>

#include "schedule/schedule.hpp"

namespace gw::halving_doubling {

bool supports(Collective c, int) { return c == Collective::all_reduce; }

Schedule make(const Part& part) {
  const int rank = part.rank, n = part.size;
  const int p = static_cast<int>(std::bit_floor(static_cast<unsigned>(n))), extra = n - p;
  const int halvings = std::countr_zero(static_cast<unsigned>(p)), first = extra ? 1 : 0;
  const int last = first + 2 * halvings;
  const auto rank_at = [&](int place) { return place < extra ? 2 * place : place + extra; };

  std::vector<Step> steps;
  const auto all = [&](StepKind kind, int begin, int count, int round, int peer, bool complete) {
    for (int c = begin; c < begin + count; ++c) steps.push_back({kind, c, round, {peer}, complete});
  };
  if (rank < 2 * extra && rank % 2) {
    all(StepKind::send, 0, p, 0, rank - 1, false);
    all(StepKind::recv, 0, p, last, rank - 1, true);
  } else {
    if (rank < 2 * extra) all(StepKind::recv_reduce, 0, p, 0, rank + 1, false);
    const int place = rank < 2 * extra ? rank / 2 : rank - extra;
    for (int k = 0, half = p / 2; half; ++k, half /= 2) {
      const int partner = place ^ half;
      all(StepKind::send, partner / half * half, half, first + k, rank_at(partner), false);
      all(StepKind::recv_reduce, place / half * half, half, first + k, rank_at(partner), half == 1);
    }
    for (int k = 0, half = 1; half < p; ++k, half *= 2) {
      const int partner = place ^ half, round = first + halvings + k;
      all(StepKind::send, place / half * half, half, round, rank_at(partner), true);
      all(StepKind::recv, partner / half * half, half, round, rank_at(partner), true);
    }
    if (rank < 2 * extra) all(StepKind::send, 0, p, last, rank + 1, true);
  }

  Schedule s;
  s.chunks = p;
  s.lanes = {{std::move(steps)}};
  s.lossy_encodes = halvings + first + 1;
  s.nested_sums = halvings + first;
  return s;
}

}  // namespace gw::halving_doubling
