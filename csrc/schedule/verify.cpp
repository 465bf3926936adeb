// The proof has two halves: rules that each schedule must keep by itself, checked here, and the run of all of them
// together on symbolic values (symbolic.cpp).
#include "schedule/verify.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.hpp"
#include "schedule/symbolic.hpp"

namespace gw {
namespace {

std::string number(auto n) { return std::to_string(n); }

bool is_p2p(Collective c) { return c == Collective::send || c == Collective::recv; }
bool is_reducing(Collective c) {
  return c == Collective::all_reduce || c == Collective::reduce_scatter || c == Collective::barrier;
}

// ---- the schedules belong together ---------------------------------------------------------------------------------

void check_header(const std::vector<Schedule>& ranks, size_t index) {
  const Schedule& s = ranks[index];
  const Schedule& first = ranks[0];
  const auto same = [&](const char* what, const std::string& value, const std::string& expected) {
    if (value != expected)
      throw Refutation("rank " + number(index) + ": " + what + " is " + value + ", expected " + expected);
  };
  same("rank", number(s.rank), number(index));
  same("size", number(s.size), number(ranks.size()));
  same("algorithm", "\"" + s.algorithm + "\"", "\"" + first.algorithm + "\"");
  // the two ends of a point-to-point message carry different names
  if (!is_p2p(s.collective) || !is_p2p(first.collective))
    same("collective", std::string(name(s.collective)), std::string(name(first.collective)));
  same("root", number(s.root), number(first.root));
  same("chunks", number(s.chunks), number(first.chunks));
  same("number of lanes", number(s.lanes.size()), number(first.lanes.size()));

  if (s.chunks < 1) throw Refutation("rank " + number(index) + ": a schedule needs at least one chunk");
  if (s.lanes.size() > kMaxLanes)
    throw Refutation("rank " + number(index) + ": has " + number(s.lanes.size()) + " lanes, at most " +
                     number(kMaxLanes) + " are allowed");
  const bool shares = s.collective == Collective::reduce_scatter || s.collective == Collective::all_gather ||
                      s.collective == Collective::all_to_all;
  if (shares && s.chunks != s.size)
    throw Refutation("rank " + number(index) + ": " + std::string(name(s.collective)) + " has " +
                     number(s.chunks) + " chunks, expected one of each of the " + number(s.size) + " ranks");
  if (s.collective == Collective::broadcast && (s.root < 0 || s.root >= s.size))
    throw Refutation("rank " + number(index) + ": root " + number(s.root) + " is no rank");
}

// ---- every step by itself ------------------------------------------------------------------------------------------

const char* wrong_with(const Schedule& s, const Step& step) {
  const bool one_peer = step.kind != StepKind::recv_reduce;
  if (step.chunk < 0 || step.chunk >= s.chunks) return "there is no such chunk";
  if (step.round < 0) return "rounds start at 0";
  if (step.peers.empty() || (one_peer && step.peers.size() != 1)) return "wrong number of peers";
  for (size_t i = 0; i < step.peers.size(); ++i) {
    if (step.peers[i] < 0 || step.peers[i] >= s.size) return "there is no such peer";
    if (step.peers[i] == s.rank) return "a rank has no channel to itself";
    if (i && step.peers[i] <= step.peers[i - 1]) return "peers are not in ascending order";
  }
  if (step.kind == StepKind::recv && !step.complete) return "a recv takes complete values only";
  if (step.kind == StepKind::recv_reduce && !is_reducing(s.collective))
    return "this collective reduces nothing";
  return nullptr;
}

// ---- the steps of one rank together --------------------------------------------------------------------------------

// What a lane has done to one chunk so far.
struct History {
  int last_write = -1;           // round
  bool sent_incomplete = false;  // the present value
  bool encoded = false;          // some incomplete value was sent through the codec
  bool sent_raw = false;         // the present value, incomplete
};

const char* wrong_round(const Step& step, History& h) {
  const bool send = step.kind == StepKind::send;
  if (h.last_write >= step.round)
    return send ? "sends a value that is written in the same round: rounds must grow along every dependency"
                : "writes a chunk twice in one round: rounds must grow along every dependency";
  if (!send) {
    h.last_write = step.round;
    h.sent_incomplete = h.sent_raw = false;
    return nullptr;
  }
  if (step.complete) return nullptr;
  if (step.raw ? h.sent_incomplete : h.sent_raw) return "sends one incomplete value both raw and encoded";
  if (step.raw) {
    h.sent_raw = true;
    return nullptr;
  }
  // The first incomplete value decides what this rank owes; a second one would be encoded, and lose, twice.
  if (h.encoded && !h.sent_incomplete)
    return "this rank encodes an incomplete value of the chunk a second time";
  h.encoded = h.sent_incomplete = true;
  return nullptr;
}

void check_steps(const Schedule& s) {
  std::map<int, size_t> lane_of;  // chunk -> lane
  for (size_t lane = 0; lane < s.lanes.size(); ++lane) {
    std::map<int, History> chunks;
    std::set<std::tuple<bool, int, int, int>> messages;  // (send, peer, round, chunk)
    int round = 0;
    for (int i = 0; i < static_cast<int>(s.lanes[lane].steps.size()); ++i) {
      const Step& step = s.lanes[lane].steps[static_cast<size_t>(i)];
      const auto refuse = [&](const std::string& reason) {
        throw Refutation(where(s, lane, i) + ": " + reason);
      };
      if (const char* reason = wrong_with(s, step)) refuse(reason);
      if (step.round < round) refuse("its round is lower than that of the step before, " + number(round));
      round = step.round;
      const auto [owner, fresh] = lane_of.try_emplace(step.chunk, lane);
      if (owner->second != lane) refuse("the chunk is also touched by lane " + number(owner->second));
      for (int peer : step.peers)
        if (!messages.insert({step.kind == StepKind::send, peer, step.round, step.chunk}).second)
          refuse("a second message of the chunk to or from rank " + number(peer) + " in one round");
      if (const char* reason = wrong_round(step, chunks[step.chunk])) refuse(reason);
    }
  }
}

void check_structure(const std::vector<Schedule>& ranks) {
  if (ranks.empty()) throw Refutation("there are no ranks");
  for (size_t r = 0; r < ranks.size(); ++r) check_header(ranks, r);
  for (const Schedule& s : ranks) check_steps(s);
}

}  // namespace

std::string verify(const std::vector<Schedule>& ranks, int segments, int depth, int capacity) {
  if (segments < 1 || depth < 1 || capacity < 1)
    fail_argument("verify: segments, depth and capacity must be at least 1, got " + number(segments) + ", " +
                  number(depth) + ", " + number(capacity));
  try {
    check_structure(ranks);
    SymbolicRun run(ranks, segments, depth, capacity);
    run.run();
    run.finish();
    return "";
  } catch (const Refutation& wrong) {
    return wrong.what();
  }
}

std::string sum_order(const std::vector<Schedule>& ranks, int chunk) {
  try {
    check_structure(ranks);
    if (chunk < 0 || chunk >= ranks[0].chunks)
      fail_argument("chunk " + number(chunk) + " does not exist; expected 0 to " +
                    number(ranks[0].chunks - 1));
    SymbolicRun run(ranks, 1, 1, 1);
    run.run();
    run.finish();
    // after a reduce_scatter only the owner has the sum
    const int holder = ranks[0].collective == Collective::reduce_scatter ? chunk : 0;
    return run.expressions().text(run.value(holder, chunk));
  } catch (const Refutation& wrong) {
    fail_argument(std::string("not a valid schedule: ") + wrong.what());
  }
}

}  // namespace gw
