// Where the ranks are and how they are linked, as far as a schedule depends on it. Every rank must hold the same: its
// hash travels in every header. Made by the communicator from its transport, or from a probed file (gradwire probe).
#pragma once
#include <cstdint>
#include <vector>

namespace gw {

struct Topology {
  std::vector<int> host;  // [size] number of each rank's host; empty: all on one
  std::vector<int>
      order;  // [size] the ranks around a ring, slow links left out where possible; empty: 0, 1, 2, ...
  std::vector<bool>
      slow;  // [size] ranks that reach all others slowly: ends of trees, owners of nothing; empty: none

  bool operator==(const Topology&) const = default;
  // Throws Error(argument) unless it describes `size` ranks.
  void check(int size) const;
  uint32_t hash() const;
};

// The ranks around a ring, and the place of each of them in it.
std::vector<int> ring_order(const Topology& topology, int size);
std::vector<int> places_in(const std::vector<int>& order);
// Ascending ranks of every host, hosts by their first rank.
std::vector<std::vector<int>> ranks_by_host(const Topology& topology, int size);
// Who should do the work that somebody has to do for others: all ranks but the slow ones, or all if none is left.
std::vector<int> quick_ranks(const Topology& topology, int size);

}  // namespace gw
