// What ranks that read one another's memory do in an all_reduce, as data for the device's executor (cuda/peers.cuh): the Plans
// of all ranks, their units dealt out to blocks, and every message given a signal and the place where its value lies. A
// piece (a segment of a chunk) stays with the block of one number on every rank, so blocks need not know one another.
//
// Nothing is sent but signals. A value is read where it lies: a frame in the sender's frames, a plain one in its array, or,
// where the sender folds into the array while peers read it, in a copy among its frames.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "comm/operation.hpp"
#include "cuda/plugin.h"
#include "schedule/topology.hpp"

namespace gw {

struct PeerProgram {
  std::vector<gw_cuda_unit> units;
  std::vector<gw_cuda_place> places;
  std::vector<uint32_t> begins;  // [ranks * blocks + 1]
  uint32_t blocks = 1;
  uint32_t stride = 1;     // words of a row of signals
  size_t frame_bytes = 0;  // of the rank that has most
};

struct PeerRoom {
  int ranks;
  uint32_t most_blocks;       // of one rank
  bool shared_arrays = true;  // peers can read the arrays; else what they read is copied among the frames
  Topology topology{};
};

// Throws Error(argument) for an algorithm that is none for these ranks.
PeerProgram make_peer_program(const Operation& op, std::string_view algorithm, const PeerRoom& room);

}  // namespace gw
