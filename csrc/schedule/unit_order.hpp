// The executor's order of work, shared by the proof (verify) and the price (cost), so that what is proved and priced
// is what runs: a lane's sends and its receives are two in-order queues, tied where they touch the same memory.
#pragma once
#include <cstddef>
#include <vector>

#include "schedule/schedule.hpp"

namespace gw {

// One segment of one step.
struct Piece {
  int step = 0;  // index into the lane's steps
  int segment = 0;
  size_t after = 0;  // pieces of the lane's other queue that must be done first
};

struct LaneQueues {
  std::vector<Piece> sends, receives;  // receives: recv and recv_reduce
};

// Sorted by round * depth + segment, ties by (round, step, segment). Depth is how many segments a round may run ahead of
// the next. A piece waits for everything that earlier steps do to the same segment of the same chunk.
LaneQueues order_lane(const Lane& lane, int segments, int depth);

}  // namespace gw
