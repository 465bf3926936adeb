#include "comm/board.hpp"

#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include "transport/mirror_ring.hpp"

namespace gw {
namespace {

struct Boards {
  const LanePlan& lane;
  const PlanSettings& settings;
  std::map<int, size_t> spans;  // by step: of a whole segment's message

  bool shared(const Unit& u) const {
    return u.kind != StepKind::recv_reduce && u.complete && !lane.in_place[u.first_peer] &&
           settings.shares_memory[static_cast<size_t>(lane.peers[u.first_peer])];
  }
  // Places are taken in turn, one more than messages fit into a channel. So whoever has sent the one before to all has seen
  // the last reader of the place consume its message; and an operation that posts is done when all is consumed, so the
  // next one finds its board empty. Both ends of a message find the same place.
  size_t place(const Unit& u) {
    if (u.segment == 0) spans[u.step] = message_span(kHeaderBytes + u.payload_bytes);
    const size_t span = spans.at(u.step);
    return u.segment % (settings.channel_bytes / span + 1) * span;
  }
};

}  // namespace

void place_on_boards(LanePlan& lane, const PlanSettings& settings) {
  if (std::ranges::count(settings.shares_memory, uint8_t{1}) < 2) return;
  Boards boards{lane, settings, {}};
  for (Unit& u : lane.receives)
    if (boards.shared(u)) u.board = boards.place(u);
  // The values are the same where nothing can tell the sends apart; one such group has the board.
  std::map<std::tuple<uint16_t, uint16_t, bool, bool>, std::vector<int>> groups;
  for (const Unit& u : lane.sends)
    if (boards.shared(u) && u.segment == 0)
      groups[{u.chunk, u.round, u.from_input, u.lend}].push_back(u.step);
  if (groups.size() != 1) return;
  const std::vector<int>& steps = groups.begin()->second;
  // What fits into a channel is sent and done with; more has to wait for its readers anyway.
  size_t bytes = 0;
  for (const Unit& u : lane.sends)
    if (u.step == steps[0]) bytes += message_span(kHeaderBytes + u.payload_bytes);
  if (steps.size() < 2 || bytes <= settings.channel_bytes) return;
  for (Unit& u : lane.sends)
    if (boards.shared(u)) {
      u.board = boards.place(u);
      u.posts = u.step == steps[0];
    }
}

}  // namespace gw
