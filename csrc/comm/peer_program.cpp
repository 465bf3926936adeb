#include "comm/peer_program.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "base/error.hpp"
#include "comm/plan.hpp"

namespace gw {
namespace {

// Small enough that a chunk of a few MiB occupies all blocks, large enough that a signal costs little beside it.
constexpr size_t kSegmentBytes = 64 << 10;
constexpr size_t kAlign = 64;

using Piece = std::pair<uint16_t, uint32_t>;  // chunk, segment
struct Message {
  uint64_t slot = GW_NO_PLACE;
  uint32_t signal = 0;
};
// sender, receiver, lane, round, chunk, segment: the same at both ends
using MessageKey = std::tuple<int, int, int, uint16_t, uint16_t, uint32_t>;
using Messages = std::map<MessageKey, Message>;

// A unit of a Plan on its way to be one of the device's.
struct Draft {
  const Unit* unit;
  const LanePlan* lane;
  uint64_t slot = GW_NO_PLACE, own = GW_NO_PLACE;
  bool pure = false;  // a send of what lies ready
  int peer(uint32_t i) const { return lane->peers[unit->first_peer + i]; }
  bool sends() const { return unit->kind == StepKind::send; }
  Piece piece() const { return {unit->chunk, unit->segment}; }
};

MessageKey key(int from, int to, const Draft& d) {
  return {from, to, d.lane->channel_lane, d.unit->round, d.unit->chunk, d.unit->segment};
}

// One queue in order of rounds, in each of them sends first: see schedule.hpp on deadlock.
std::vector<Draft> in_order(const Plan& plan) {
  std::vector<Draft> drafts;
  for (const LanePlan& lane : plan.lanes) {
    for (const Unit& u : lane.sends) drafts.push_back({&u, &lane});
    for (const Unit& u : lane.receives) drafts.push_back({&u, &lane});
  }
  std::ranges::stable_sort(drafts, {}, [](const Draft& d) {
    return std::tuple(d.unit->round, !d.sends(), d.unit->step, d.unit->segment);
  });
  return drafts;
}

// Where frames and copies lie, and so where peers find each message. Returns the bytes they take.
size_t place_values(const Plan& plan, bool shared_arrays, std::vector<Draft>& drafts, Messages& messages) {
  size_t used = 0;
  std::map<Piece, uint64_t> frames;  // of the current values
  std::map<Piece, std::vector<size_t>> folds;
  for (size_t i = 0; i < drafts.size(); ++i)
    if (drafts[i].unit->kind == StepKind::recv_reduce) folds[drafts[i].piece()].push_back(i);
  const auto take = [&](const Draft& d) {
    const uint64_t slot = used;
    used += (d.unit->payload_bytes + kAlign - 1) / kAlign * kAlign;
    return slot;
  };
  for (size_t i = 0; i < drafts.size(); ++i) {
    Draft& d = drafts[i];
    const Unit& u = *d.unit;
    const auto ready = frames.find(d.piece());
    if (d.sends()) {
      const auto& later = folds[d.piece()];
      const bool copies = !plan.operation.codec && (!shared_arrays || (!later.empty() && later.back() > i));
      d.pure = ready != frames.end() ? !u.encode : !u.encode && !copies;
      if (!d.pure) d.slot = frames[d.piece()] = take(d);
      const auto now = frames.find(d.piece());
      messages[key(plan.rank, d.peer(0), d)].slot = now == frames.end() ? GW_NO_PLACE : now->second;
      continue;
    }
    if (u.own_frame) d.own = ready->second;
    frames.erase(d.piece());
    if (u.encode || u.keep_frame) d.slot = frames[d.piece()] = take(d);
  }
  return used;
}

class Writer {
 public:
  Writer(PeerProgram& program, Messages& messages) : program_(program), messages_(messages) {}

  // The receivers number the messages of their block's row.
  void number_signals(int rank, const Draft& d, uint32_t& next) {
    for (uint32_t i = 0; !d.sends() && i < d.unit->peers; ++i)
      messages_.at(key(d.peer(i), rank, d)).signal = next++;
    program_.stride = std::max(program_.stride, next);
  }

  void write(int rank, const Draft& d, bool first) {
    // a signal alone goes with whatever the block does before
    if (!d.pure || first || program_.units.back().targets == kMostTargets)
      program_.units.push_back(started(rank, d));
    gw_cuda_unit& u = program_.units.back();
    if (!d.sends()) return;
    const Message& m = messages_.at(key(rank, d.peer(0), d));
    if (u.targets == 0) u.first_target = static_cast<uint32_t>(program_.places.size());
    program_.places.push_back({GW_NO_PLACE, static_cast<uint32_t>(d.peer(0)), m.signal});
    ++u.targets;
  }

 private:
  static constexpr uint16_t kMostTargets = 256;  // a thread each

  gw_cuda_unit started(int rank, const Draft& d) {
    const Unit& from = *d.unit;
    gw_cuda_unit u{};
    u.at = from.in_offset;
    u.count = static_cast<uint32_t>(from.count);
    u.slot = d.slot;
    u.own = d.own;
    u.step = static_cast<uint16_t>(from.step);
    u.kind = static_cast<uint8_t>(d.pure                        ? GW_UNIT_SIGNAL
                                  : d.sends()                   ? GW_UNIT_SEND
                                  : from.kind == StepKind::recv ? GW_UNIT_RECV
                                                                : GW_UNIT_REDUCE);
    u.flags = static_cast<uint8_t>((from.encode ? GW_UNIT_ENCODE : 0) | (from.keep_frame ? GW_UNIT_KEEP : 0) |
                                   (from.complete ? GW_UNIT_COMPLETE : 0) |
                                   (from.from_input ? GW_UNIT_FROM_INPUT : 0));
    if (d.sends()) return u;
    u.first_source = static_cast<uint32_t>(program_.places.size());
    u.sources = static_cast<uint16_t>(from.peers);
    for (uint32_t i = 0; i < from.peers; ++i) {
      const Message& m = messages_.at(key(d.peer(i), rank, d));
      program_.places.push_back({m.slot, static_cast<uint32_t>(d.peer(i)), m.signal});
    }
    return u;
  }

  PeerProgram& program_;
  Messages& messages_;
};

Schedule schedule_of(std::string_view algorithm, int rank, const PeerRoom& room) {
  Schedule s = make_schedule(algorithm, {Collective::all_reduce, rank, room.ranks, -1, room.topology});
  if (s.raw)
    fail_argument("algorithm \"" + std::string(algorithm) +
                  "\" is one between hosts: ranks here share memory");
  return s;
}

}  // namespace

PeerProgram make_peer_program(const Operation& op, std::string_view algorithm, const PeerRoom& room) {
  const int ranks = room.ranks;
  const PlanSettings settings{.segment_bytes = kSegmentBytes, .channel_bytes = size_t{1} << 30};
  std::vector<std::shared_ptr<const Plan>> plans;
  std::vector<std::vector<Draft>> drafts;
  PeerProgram program;
  Messages messages;
  uint32_t segments = 1, chunks = 1;
  for (int r = 0; r < ranks; ++r) {
    plans.push_back(make_plan(op, schedule_of(algorithm, r, room), 0, 0, settings));
    drafts.push_back(in_order(*plans.back()));
    program.frame_bytes = std::max(program.frame_bytes,
                                   place_values(*plans.back(), room.shared_arrays, drafts.back(), messages));
    for (const Draft& d : drafts.back()) {
      segments = std::max(segments, d.unit->segment + 1);
      chunks = std::max(chunks, d.unit->chunk + 1u);
    }
  }
  program.blocks = std::clamp(segments * chunks, 1u, room.most_blocks);
  const auto block_of = [&](const Draft& d) {
    return (d.unit->chunk * segments + d.unit->segment) % program.blocks;
  };
  Writer writer(program, messages);
  for (int r = 0; r < ranks; ++r) {
    std::vector<uint32_t> next(program.blocks, static_cast<uint32_t>(1 + ranks));
    for (const Draft& d : drafts[static_cast<size_t>(r)]) writer.number_signals(r, d, next[block_of(d)]);
  }
  for (int r = 0; r < ranks; ++r)
    for (uint32_t b = 0; b < program.blocks; ++b) {
      program.begins.push_back(static_cast<uint32_t>(program.units.size()));
      for (const Draft& d : drafts[static_cast<size_t>(r)])
        if (block_of(d) == b) writer.write(r, d, program.units.size() == program.begins.back());
    }
  program.begins.push_back(static_cast<uint32_t>(program.units.size()));
  return program;
}

}  // namespace gw
