// Proof by symbolic execution that a schedule does what its collective promises.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "schedule/schedule.hpp"

namespace gw {

// Runs all ranks' schedules together with channels that hold `capacity` messages and chunks cut into `segments`, in
// the executor's order (pipeline depth `depth`: the key of a message is round * depth + segment). Returns an empty
// string, or what is wrong and where: deadlock, unmatched message, chunk order, a round that does not grow, a value
// that is not exactly {0..n-1}, ranks whose order of sums differ, a lossy frame encoded twice, a wrong count of lossy
// encodes, or lanes that share chunks.
std::string verify(const std::vector<Schedule>& ranks, int segments = 1, int depth = 1, int capacity = 1);

// The documented order of sums of one chunk, for example "((0+1)+2)+3". Throws Error(argument) with verify's finding
// if the schedules are wrong.
std::string sum_order(const std::vector<Schedule>& ranks, int chunk);

}  // namespace gw
