// What a schedule asks of its rank, counted without running it: the closed-form half of the price.
#pragma once
#include <string_view>
#include <vector>

#include "schedule/select.hpp"

namespace gw {

// Sent, received and passes are in units of the collective's raw bytes.
struct Load {
  int rounds = 0;          // up to this rank's last one
  int sending_rounds = 0;  // those in which it sends
  double sent = 0, received = 0;
  double passes = 0;  // of arithmetic: reducing, and with a codec encoding and decoding
};

// An operation whose messages go through a codec pays for arithmetic at both ends of each.
bool coded(const Question& question);
// Arithmetic of one step of a lane, in passes over its chunk's raw bytes.
struct StepWork {
  double reduce = 0, encode = 0, decode = 0;
  double passes() const { return reduce + encode + decode; }
};
std::vector<StepWork> work_of(const Lane& lane, bool coded);
Load load_of(const Schedule& schedule, bool coded);

// The schedules of a few ranks that show all there is to count: ranks differ by their place in a tree or by being the
// root (rank 0), and these are the ends, inner nodes and the deepest leaves.
std::vector<Schedule> sample_ranks(std::string_view algorithm, const Question& question);

}  // namespace gw
