// Schedules from C++: the registry, point to point, and the proof at sizes that Python would take long for.
#include "schedule/schedule.hpp"

#include <doctest/doctest.h>

#include <set>

#include "base/error.hpp"
#include "schedule/select.hpp"
#include "schedule/verify.hpp"

namespace {

std::vector<gw::Schedule> group(std::string_view algorithm, gw::Collective collective, int size) {
  std::vector<gw::Schedule> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(gw::make_schedule(algorithm, {collective, r, size, 0, {}}));
  return ranks;
}

}  // namespace

TEST_CASE("every algorithm is found by its name and has an id of its own") {
  std::set<int> ids;
  for (const gw::Algorithm& a : gw::algorithms()) {
    CHECK(&gw::algorithm(a.name) == &a);
    CHECK(ids.insert(a.id).second);
  }
  CHECK_THROWS_AS(gw::algorithm("none"), gw::Error);
}

TEST_CASE("every algorithm is proved for 40 ranks") {
  for (const gw::Algorithm& a : gw::algorithms())
    for (auto c : {gw::Collective::all_reduce, gw::Collective::reduce_scatter, gw::Collective::all_gather,
                   gw::Collective::broadcast, gw::Collective::all_to_all, gw::Collective::barrier})
      if (a.supports(c, 40)) CHECK(gw::verify(group(a.name, c, 40), 2, 2, 1) == "");
}

TEST_CASE("both ends of a point-to-point message fit together, and only they") {
  const auto send = gw::p2p_schedule(gw::Collective::send, 0, 2, 1);
  const auto recv = gw::p2p_schedule(gw::Collective::recv, 1, 2, 0);
  CHECK(gw::verify({send, recv}, 3, 2, 1) == "");
  CHECK(gw::verify({send, gw::p2p_schedule(gw::Collective::send, 1, 2, 0)}) != "");
  CHECK_THROWS_AS(gw::p2p_schedule(gw::Collective::send, 1, 2, 1), gw::Error);
  CHECK_THROWS_AS(gw::p2p_schedule(gw::Collective::send, 1, 2, 2), gw::Error);
  CHECK_THROWS_AS(gw::p2p_schedule(gw::Collective::barrier, 0, 2, 1), gw::Error);
}

TEST_CASE("no ranks, no proof") {
  CHECK(gw::verify({}) == "there are no ranks");
  CHECK_THROWS_AS(gw::verify({}, 0), gw::Error);
  CHECK_THROWS_AS(gw::sum_order(group("direct", gw::Collective::all_reduce, 3), 3), gw::Error);
}

TEST_CASE("the choice is the first candidate") {
  const gw::Choice choice = gw::select({.size = 8, .raw_bytes = 1 << 20, .link = {1e-6, 1e-10}});
  REQUIRE(!choice.candidates.empty());
  CHECK(choice.algorithm == choice.candidates.front().algorithm);
  CHECK(choice.explain().find("chosen: " + choice.algorithm) == 0);
}
