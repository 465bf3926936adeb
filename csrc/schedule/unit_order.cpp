#include "schedule/unit_order.hpp"

#include <algorithm>
#include <map>
#include <tuple>

namespace gw {
namespace {

bool is_send(const Step& step) { return step.kind == StepKind::send; }

// How far into each queue one segment of one chunk has been used by the steps seen so far.
struct Used {
  size_t sends = 0, receives = 0;
};

}  // namespace

LaneQueues order_lane(const Lane& lane, int segments, int depth) {
  const auto& steps = lane.steps;
  LaneQueues queues;
  for (int i = 0; i < static_cast<int>(steps.size()); ++i)
    for (int s = 0; s < segments; ++s)
      (is_send(steps[static_cast<size_t>(i)]) ? queues.sends : queues.receives).push_back({i, s, 0});
  const auto key = [&](const Piece& p) {
    const long long round = steps[static_cast<size_t>(p.step)].round;
    return std::tuple(round * depth + p.segment, round, p.step, p.segment);
  };
  std::ranges::sort(queues.sends, {}, key);
  std::ranges::sort(queues.receives, {}, key);

  // Places in the queues by (step, segment), then the steps once in their own order.
  const auto index = [&](int step, int segment) {
    return static_cast<size_t>(step) * static_cast<size_t>(segments) + static_cast<size_t>(segment);
  };
  std::vector<size_t> place(steps.size() * static_cast<size_t>(segments));
  for (auto* queue : {&queues.sends, &queues.receives})
    for (size_t at = 0; at < queue->size(); ++at) place[index((*queue)[at].step, (*queue)[at].segment)] = at;

  std::map<int, std::vector<Used>> chunks;
  for (int i = 0; i < static_cast<int>(steps.size()); ++i) {
    const Step& step = steps[static_cast<size_t>(i)];
    auto& used = chunks[step.chunk];
    used.resize(static_cast<size_t>(segments));
    for (int s = 0; s < segments; ++s) {
      Used& u = used[static_cast<size_t>(s)];
      const size_t at = place[index(i, s)];
      if (is_send(step)) {
        queues.sends[at].after = u.receives;
        u.sends = std::max(u.sends, at + 1);
      } else {
        queues.receives[at].after = u.sends;
        u.receives = std::max(u.receives, at + 1);
      }
    }
  }
  return queues;
}

}  // namespace gw
