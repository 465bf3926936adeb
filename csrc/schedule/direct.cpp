// Direct: every rank owns one chunk and talks to every peer. (The algorithm file to copy when writing another.)
//
// all_reduce, N bytes, n ranks, n chunks:
//   round 0  every rank sends its value of chunk p to rank p; rank p folds all n values of chunk p, in rank order
//   round 1  every rank sends its finished chunk to all; the others overwrite theirs with it
// Ranks that the topology calls slow own nothing: they send and receive N, the least an all_reduce can do with.
// The other collectives are one round each: reduce_scatter is round 0, all_gather is round 1, all_to_all sends
// block p to rank p, and in a broadcast the root sends to all.
// Cost: 2 rounds, 2 (n-1)/n N bytes a rank; broadcast 1 round, (n-1) N bytes from the root.
// Order of sums: rank order, ((0+1)+2)+3. A value is encoded at most twice, whatever n is.
// Source: Rabenseifner's reduce-scatter + all-gather, with pairwise exchange instead of halving (Thakur et al. 2005).
#include "schedule/schedule.hpp"

namespace gw::direct {

bool supports(Collective c, int) {
  return c == Collective::all_reduce || c == Collective::reduce_scatter || c == Collective::all_gather ||
         c == Collective::all_to_all || c == Collective::broadcast;
}

Schedule make(const Part& part) {
  const Collective c = part.collective;
  const int rank = part.rank, size = part.size;
  const bool reduces = c == Collective::all_reduce || c == Collective::reduce_scatter;
  const bool gathers = c == Collective::all_reduce || c == Collective::all_gather;
  const int gather_round = reduces ? 1 : 0;
  // chunk_of[r]: the chunk that rank r owns, or -1
  std::vector<int> chunk_of(static_cast<size_t>(size), -1), others;
  int chunks = 0;
  for (int r : quick_ranks(c == Collective::all_reduce ? part.topology : Topology{}, size))
    chunk_of[static_cast<size_t>(r)] = chunks++;
  const int mine = chunk_of[static_cast<size_t>(rank)];
  for (int p = 0; p < size; ++p)
    if (p != rank) others.push_back(p);
  // Start with the next rank, so that not everybody sends to rank 0 first; receive in the order peers send.
  const auto next = [&](int k) { return (rank + k) % size; };
  const auto previous = [&](int k) { return (rank - k + size) % size; };

  std::vector<Step> steps;
  const auto send = [&](int chunk, int round, int peer, bool complete) {
    if (chunk >= 0) steps.push_back({StepKind::send, chunk, round, {peer}, complete});
  };
  const auto recv = [&](int chunk, int round, int peer) {
    if (chunk >= 0) steps.push_back({StepKind::recv, chunk, round, {peer}, true});
  };
  if (reduces) {
    for (int k = 1; k < size; ++k) send(chunk_of[static_cast<size_t>(next(k))], 0, next(k), false);
    if (mine >= 0) steps.push_back({StepKind::recv_reduce, mine, 0, others, true});
  }
  if (gathers) {
    for (int k = 1; k < size; ++k) send(mine, gather_round, next(k), true);
    for (int k = 1; k < size; ++k)
      recv(chunk_of[static_cast<size_t>(previous(k))], gather_round, previous(k));
  }
  if (c == Collective::all_to_all) {
    for (int k = 1; k < size; ++k) send(next(k), 0, next(k), true);
    for (int k = 1; k < size; ++k) recv(previous(k), 0, previous(k));
  }
  if (c == Collective::broadcast && rank == part.root)
    for (int k = 1; k < size; ++k) send(0, 0, next(k), true);
  if (c == Collective::broadcast && rank != part.root) recv(0, 0, part.root);

  Schedule s;
  s.chunks = c == Collective::broadcast ? 1 : chunks;
  s.lanes = {{std::move(steps)}};
  s.lossy_encodes = c == Collective::all_reduce ? 2 : 1;
  s.nested_sums = reduces ? 1 : 0;
  return s;
}

}  // namespace gw::direct
