// Which algorithm ranks that read one another's memory take by default. Modelled, not measured: the bounds are those that
// public all-reduce kernels for NVLink use. Communicators go by what `make gpu` measured on this machine, if it was run
// (src/gradwire/gpu_peers.py).
#pragma once
#include <cstddef>

namespace gw {

struct PeerBound {
  int ranks;              // up to
  size_t one_shot_below;  // bytes of the array
};
inline constexpr PeerBound kPeerBounds[] = {{2, ~size_t{0}}, {4, 512 << 10}, {16, 256 << 10}};

constexpr size_t one_shot_below(int ranks) {
  for (const PeerBound& b : kPeerBounds)
    if (ranks <= b.ranks) return b.one_shot_below;
  return 0;
}
constexpr const char* peer_algorithm(size_t bytes, size_t one_shot_below) {
  return bytes < one_shot_below ? "one_shot" : "direct";
}

}  // namespace gw
