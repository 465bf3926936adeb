// Which algorithm ranks that read one another's memory take by default. Not measured on a GPU yet: the bounds are those that
// public all-reduce kernels for NVLink use. What the timings of ranks on one GPU imply, `make gpu` prints in this form.
#pragma once
#include <cstddef>

namespace gw {

struct PeerBound {
  int ranks;              // up to
  size_t one_shot_below;  // bytes of the array
};
inline constexpr PeerBound kPeerBounds[] = {{2, ~size_t{0}}, {4, 512 << 10}, {16, 256 << 10}};

constexpr const char* peer_algorithm(int ranks, size_t bytes) {
  for (const PeerBound& b : kPeerBounds)
    if (ranks <= b.ranks) return bytes < b.one_shot_below ? "one_shot" : "direct";
  return "direct";
}

}  // namespace gw
