#include "schedule/load.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace gw {

bool coded(const Question& q) { return q.lossy || q.wire_ratio != 1.0; }

std::vector<StepWork> work_of(const Lane& lane, bool coded) {
  std::vector<StepWork> work;
  std::set<int> framed;  // chunks whose encoded form is at hand, so that sending them costs nothing
  for (const Step& s : lane.steps) {
    StepWork w;
    const bool codes = coded && !s.raw;
    const auto sources = static_cast<double>(s.peers.size());
    if (s.kind == StepKind::recv_reduce) {
      framed.erase(s.chunk);
      (codes ? w.decode : w.reduce) = sources;  // decode_add does both
    } else {
      const bool fresh = framed.insert(s.chunk).second;
      if (codes && s.kind == StepKind::recv) w.decode = 1;
      if (codes && s.kind == StepKind::send && fresh) w.encode = 1;
    }
    work.push_back(w);
  }
  return work;
}

Load load_of(const Schedule& s, bool coded) {
  Load load;
  std::set<int> sending;
  const double chunk = 1.0 / s.chunks;
  for (const Lane& lane : s.lanes) {
    for (const Step& step : lane.steps) {
      const bool send = step.kind == StepKind::send;
      load.rounds = std::max(load.rounds, step.round + 1);
      (send ? load.sent : load.received) += chunk * static_cast<double>(step.peers.size());
      if (send) sending.insert(step.round);
    }
    for (const StepWork& w : work_of(lane, coded)) load.passes += w.passes() * chunk;
  }
  load.sending_rounds = static_cast<int>(sending.size());
  return load;
}

std::vector<Schedule> sample_ranks(std::string_view algorithm, const Question& q) {
  std::set<int> ranks = {0, q.size / 2, q.size - 1};
  for (int r = 1; r < std::min(q.size, 4); ++r) ranks.insert(r);
  std::vector<Schedule> schedules;
  for (int r : ranks) schedules.push_back(make_schedule(algorithm, {q.collective, r, q.size, 0, q.topology}));
  return schedules;
}

}  // namespace gw
