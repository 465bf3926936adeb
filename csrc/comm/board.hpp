// One value for several peers. Where a rank sends the same values to more than one peer of its host (all_gather, broadcast)
// it writes them once, on its board (Transport::board), and its messages say no more than that: all but the header of a
// message stays untouched. In each peer's channel the same bytes would cross between the cores again for every peer.
#pragma once
#include "comm/plan.hpp"

namespace gw {

// Gives what a plan's only lane sends to several peers, and what it receives, places on boards.
void place_on_boards(LanePlan& lane, const PlanSettings& settings);

}  // namespace gw
