#include "comm/plan.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "base/error.hpp"
#include "comm/board.hpp"
#include "transport/transport.hpp"

namespace gw {
namespace {

constexpr size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// ---- geometry: chunks and segments in memory --------------------------------------------------------------------

struct Geometry {
  size_t chunk_elements = 0;  // of every chunk but the last ones
  size_t segment_elements = 1;
  size_t total = 0;     // all chunks
  bool shares = false;  // chunk c is exactly rank c's share
  bool raw = false;     // some messages do without the codec

  size_t begin(int chunk) const { return std::min(total, static_cast<size_t>(chunk) * chunk_elements); }
  size_t length(int chunk) const { return begin(chunk + 1) - begin(chunk); }
  size_t segments(int chunk) const {
    // an empty chunk still travels as one empty frame, so that its header is checked
    return std::max<size_t>(1, (length(chunk) + segment_elements - 1) / segment_elements);
  }
};

Geometry make_geometry(const Operation& op, const Schedule& schedule, const PlanSettings& settings) {
  const size_t element = size_of(op.dtype);
  const size_t line = 64 / element, align = std::max(op.codec ? op.codec->block() : 1, line);
  Geometry g;
  g.shares = has_shares(op.collective);
  const auto chunks = static_cast<size_t>(schedule.chunks);
  // Chunks decide the order of sums: a lossless codec must cut the same ones as no codec.
  const size_t cut = op.codec && op.codec->lossy() ? align : line;
  g.chunk_elements = g.shares ? op.count : round_up((op.count + chunks - 1) / chunks, cut);
  g.total = g.shares ? op.count * chunks : op.count;
  // Pieces that stay in cache and still give a chunk several of them to overlap. Coded segments are cut by their fp32
  // scratch (L2-sized) rather than by their payload.
  constexpr size_t kPieces = 4, kSmallestPiece = 16 << 10, kScratchElements = 32 << 10;
  const size_t most = std::min(settings.segment_bytes, settings.channel_bytes / 8);
  size_t elements = most / element;
  g.raw = op.codec && schedule.raw;
  if (op.codec)
    elements =
        std::max(g.raw ? std::min(kScratchElements, elements / align * align) : kScratchElements, align);
  const size_t spread = std::max(g.chunk_elements / kPieces, kSmallestPiece / element);
  g.segment_elements = std::max(align, round_up(std::min(elements, spread), align));
  if (op.codec)  // dense "sparse" frames can be larger than the values: shrink until they fit
    while (g.segment_elements > align && op.codec->encoded_bytes(g.segment_elements) > most)
      g.segment_elements = std::max(align, round_up(g.segment_elements / 2, align));
  return g;
}

// ---- what a step does to values and frames ------------------------------------------------------------------------

struct StepRole {
  Unit prototype;
  bool needs_slot = false;
};

bool later(const std::vector<Step>& steps, size_t from, int chunk, auto&& wanted) {
  for (size_t i = from + 1; i < steps.size(); ++i)
    if (steps[i].chunk == chunk && wanted(steps[i])) return true;
  return false;
}

// Walks one lane in order and decides, for each step, where this rank's value lies and who makes the frame.
std::vector<StepRole> roles_of(const std::vector<Step>& steps, const Operation& op) {
  struct ChunkState {
    bool touched = false;     // a receive has written it: the value is in `out`
    bool frame_kept = false;  // the frame store holds the frame of the current value
    bool sent_raw = false;    // peers got the current value as it is
  };
  std::map<int, ChunkState> chunks;
  std::vector<StepRole> roles;
  for (size_t i = 0; i < steps.size(); ++i) {
    const Step& s = steps[i];
    ChunkState& c = chunks[s.chunk];
    const auto complete_send = [](const Step& t) { return t.kind == StepKind::send && t.complete && !t.raw; };
    StepRole role;
    Unit& u = role.prototype;
    u.kind = s.kind;
    u.complete = s.complete;
    u.step = static_cast<int>(i);
    u.round = static_cast<uint16_t>(s.round);
    u.chunk = static_cast<uint16_t>(s.chunk);
    u.from_input = !c.touched;
    u.raw = op.codec && s.raw;
    if (u.raw) {
      u.settle = u.from_input && s.kind == StepKind::send && op.with_residual;
      u.encode = s.kind == StepKind::recv_reduce && s.complete && later(steps, i, s.chunk, complete_send);
      u.own_frame = s.kind == StepKind::recv_reduce && c.sent_raw;
      role.needs_slot = u.encode;
      c = {.touched = c.touched || u.settle || s.kind != StepKind::send,
           .frame_kept = u.encode,
           .sent_raw = s.kind == StepKind::send};
    } else if (s.kind == StepKind::send && op.codec) {
      u.encode = !c.frame_kept;
      // A share that is sent to several peers, or that this rank will fold itself, is encoded once and kept.
      if (u.encode && (s.complete || later(steps, i, s.chunk, [](const Step& t) {
                         return t.kind == StepKind::recv_reduce || (t.kind == StepKind::send && !t.complete);
                       })))
        c.frame_kept = true;
      u.adopt = u.encode && s.complete && op.collective != Collective::all_to_all;
      role.needs_slot = c.frame_kept;
    } else if (s.kind == StepKind::recv_reduce) {
      u.own_frame = op.codec && c.frame_kept;
      u.encode = op.codec && s.complete && later(steps, i, s.chunk, complete_send);
      role.needs_slot = u.own_frame || u.encode;
      c = {.touched = true, .frame_kept = u.encode};
    } else if (s.kind == StepKind::recv) {
      u.keep_frame = op.codec && later(steps, i, s.chunk, complete_send);
      role.needs_slot = u.keep_frame;
      c = {.touched = true, .frame_kept = u.keep_frame};
    }
    roles.push_back(role);
  }
  return roles;
}

// ---- units in the executor's order ----------------------------------------------------------------------------------

// Where chunk data lies in the caller's arrays.
void place(Unit& u, const Operation& op, const Geometry& g, int rank) {
  const size_t begin = static_cast<size_t>(u.segment) * g.segment_elements;
  const size_t length = g.length(u.chunk);
  u.count = std::min(g.segment_elements, length - std::min(length, begin));
  u.in_offset = u.out_offset = g.begin(u.chunk) + begin;
  // the two ends of an all_to_all know a block by different numbers
  u.first = op.collective == Collective::all_to_all ? begin : u.in_offset;
  if (op.collective == Collective::all_gather && u.chunk == rank) u.in_offset = begin;
  if (op.collective == Collective::reduce_scatter && u.chunk == rank) u.out_offset = begin;
  u.staged = op.collective == Collective::reduce_scatter && u.chunk != rank;
  u.payload_bytes = op.codec && !u.raw ? op.codec->encoded_bytes(u.count) : u.count * size_of(op.dtype);
}

// A share that goes to the rank that completes its chunk, and whose finished chunk comes straight back in the next
// round, is asked for and answered in one place. Returns a flag for every peer of every step. Both ranks of a pair find
// the same ones: the owner completes the chunk in the round of the ask, or it could not send it in the next one.
std::vector<std::vector<uint8_t>> asks_and_answers(const std::vector<Step>& steps,
                                                   const std::vector<uint8_t>& shares_memory) {
  std::vector<std::vector<uint8_t>> flags;
  for (const Step& s : steps) flags.emplace_back(s.peers.size(), uint8_t{0});
  if (shares_memory.empty()) return flags;
  std::set<int> plain;  // peers with whom the lane exchanges anything else
  for (size_t i = 0; i < steps.size(); ++i) {
    const Step& ask = steps[i];
    const bool mine = ask.kind == StepKind::send && !ask.complete;
    const bool theirs = ask.kind == StepKind::recv_reduce && ask.complete;
    if (!mine && !theirs) continue;
    for (size_t j = i + 1; j < steps.size(); ++j) {
      const Step& reply = steps[j];
      if (reply.kind != (mine ? StepKind::recv : StepKind::send) || !reply.complete ||
          reply.chunk != ask.chunk || reply.round != ask.round + 1)
        continue;
      const auto at = std::ranges::find(ask.peers, reply.peers[0]);
      if (at != ask.peers.end() && shares_memory[static_cast<size_t>(*at)])
        flags[i][static_cast<size_t>(at - ask.peers.begin())] = flags[j][0] = 1;
    }
  }
  for (size_t i = 0; i < steps.size(); ++i)
    for (size_t p = 0; p < steps[i].peers.size(); ++p)
      if (!flags[i][p]) plain.insert(steps[i].peers[p]);
  for (size_t i = 0; i < steps.size(); ++i)
    for (size_t p = 0; p < steps[i].peers.size(); ++p)
      if (plain.contains(steps[i].peers[p])) flags[i][p] = 0;
  return flags;
}

// May a peer read what step i sends while the operation goes on? Not if this rank then changes it, but for the finished
// value of a share: whoever made that had read the share.
bool stays(const std::vector<Step>& steps, size_t i) {
  return !later(steps, i, steps[i].chunk, [&](const Step& t) {
    return t.kind == StepKind::recv_reduce || (t.kind == StepKind::recv && steps[i].complete);
  });
}

struct LaneBuilder {
  const Operation& op;
  const Geometry& geometry;
  int rank;
  size_t depth;
  const std::vector<uint8_t>& shares_memory;
  std::map<std::pair<int, size_t>, size_t>& slots;  // (chunk, segment) -> offset in the frame store
  size_t& store_bytes;

  size_t slot(int chunk, const Unit& u) {
    const auto [it, fresh] = slots.try_emplace({chunk, u.segment}, store_bytes);
    if (fresh) store_bytes += kSlotHead + round_up(op.codec->encoded_bytes(u.count), 64);
    return it->second;
  }

  LanePlan build(const std::vector<Step>& steps) {
    LanePlan lane;
    const auto roles = roles_of(steps, op);
    const auto in_place = asks_and_answers(steps, shares_memory);
    std::vector<Unit> units;
    for (size_t i = 0; i < steps.size(); ++i) {
      // the answer itself: written by the recv_reduce
      if (steps[i].kind == StepKind::send && steps[i].complete && in_place[i][0]) continue;
      const auto first = static_cast<uint32_t>(lane.peers.size());
      lane.peers.insert(lane.peers.end(), steps[i].peers.begin(), steps[i].peers.end());
      lane.in_place.insert(lane.in_place.end(), in_place[i].begin(), in_place[i].end());
      for (size_t s = 0; s < geometry.segments(steps[i].chunk); ++s) {
        Unit u = roles[i].prototype;
        u.segment = static_cast<uint32_t>(s);
        u.first_peer = first;
        u.peers = static_cast<uint32_t>(steps[i].peers.size());
        place(u, op, geometry, rank);
        if (roles[i].needs_slot) u.slot = slot(steps[i].chunk, u);
        u.lend = lends(steps, i, u, in_place[i][0]);
        units.push_back(u);
      }
    }
    // The same key on both sides of every message, so channels need no tags: see schedule.hpp on deadlock.
    const auto key = [this](const Unit& u) {
      return std::tuple(u.round * depth + u.segment, u.round, u.step, u.segment);
    };
    std::ranges::sort(units, {}, key);
    tie_queues(units);
    for (const Unit& u : units) (u.kind == StepKind::send ? lane.sends : lane.receives).push_back(u);
    return lane;
  }

  // Both ends of an ask and its answer must find the same: raw, as large, at the same place of an array in place.
  bool lends(const std::vector<Step>& steps, size_t i, const Unit& u, bool answered) const {
    constexpr size_t kWorthwhile = 4096;  // a smaller payload is copied as fast as it is looked up
    const int peer = steps[i].peers[0];
    if (u.payload_bytes < kWorthwhile || (op.codec && !u.raw) || shares_memory.empty() ||
        !shares_memory[static_cast<size_t>(peer)])
      return false;
    if (answered) return !op.codec && u.kind != StepKind::recv_reduce;
    const bool apart = u.from_input && !op.in_place;  // received values go elsewhere
    return u.kind == StepKind::send && (u.from_input || !u.staged) && (apart || stays(steps, i));
  }

  // `after`: everything an earlier step of the lane does to the same piece of memory.
  static void tie_queues(std::vector<Unit>& units) {
    std::map<std::pair<int, uint32_t>, std::vector<size_t>> pieces;
    std::vector<uint32_t> position(units.size());
    uint32_t sends = 0, receives = 0;
    for (size_t i = 0; i < units.size(); ++i) {
      position[i] = units[i].kind == StepKind::send ? sends++ : receives++;
      pieces[{units[i].chunk, units[i].segment}].push_back(i);
    }
    for (auto& [piece, members] : pieces)
      for (size_t i : members)
        for (size_t j : members) {
          const bool other_queue = (units[i].kind == StepKind::send) != (units[j].kind == StepKind::send);
          if (other_queue && units[j].step < units[i].step)
            units[i].after = std::max(units[i].after, position[j] + 1);
        }
  }
};

FrameHeader common_header(const Operation& op, uint8_t algorithm_id, uint32_t epoch,
                          const PlanSettings& settings, const Geometry& g) {
  FrameHeader h{};
  // Both ends of a point-to-point message describe it as a send.
  h.collective = static_cast<uint8_t>(op.collective == Collective::recv ? Collective::send : op.collective);
  h.op = static_cast<uint8_t>(op.op);
  h.dtype = static_cast<uint8_t>(op.dtype);
  h.algorithm = algorithm_id;
  h.codec = op.codec ? op.codec->id() : uint8_t{0};
  h.params = op.codec ? op.codec->wire_params() : 0;
  h.total = op.count;
  h.epoch = epoch;
  // FNV-1a over what must agree but has no field of its own.
  const bool broadcast = op.collective == Collective::broadcast;
  uint32_t hash = 2166136261u;
  for (size_t v :
       {g.segment_elements, settings.channel_bytes, static_cast<size_t>(broadcast ? op.peer + 1 : 0),
        static_cast<size_t>(op.tag), static_cast<size_t>(settings.topology)})
    for (int byte = 0; byte < 8; ++byte)
      hash = (hash ^ static_cast<uint32_t>((v >> (8 * byte)) & 0xff)) * 16777619u;
  h.config = hash;
  return h;
}

}  // namespace

std::shared_ptr<const Plan> make_plan(const Operation& op, const Schedule& schedule, uint8_t algorithm_id,
                                      uint32_t epoch, const PlanSettings& settings) {
  const bool p2p = op.collective == Collective::send || op.collective == Collective::recv;
  const Geometry g = make_geometry(op, schedule, settings);
  check_internal(!g.raw || op.in_place, "raw messages of a coded operation need an array to settle in");
  auto plan = std::make_shared<Plan>();
  plan->operation = op;
  plan->rank = schedule.rank;
  plan->size = schedule.size;
  plan->scale = op.op == ReduceOp::avg ? 1.0 / schedule.size : 1.0;
  plan->header = common_header(op, algorithm_id, epoch, settings, g);

  // As many segments in flight between two rounds as half a channel holds.
  const size_t message =
      kHeaderBytes + std::max(op.codec ? op.codec->encoded_bytes(g.segment_elements) : 0,
                              op.codec && !g.raw ? 0 : g.segment_elements * size_of(op.dtype));
  const size_t depth = std::clamp<size_t>(settings.channel_bytes / (2 * message), 1, 16);
  std::map<std::pair<int, size_t>, size_t> slots;
  for (size_t l = 0; l < schedule.lanes.size(); ++l) {
    LaneBuilder builder{op, g, schedule.rank, depth, settings.shares_memory, slots, plan->frame_store_bytes};
    LanePlan lane = builder.build(schedule.lanes[l].steps);
    lane.channel_lane = p2p ? kP2pLane : static_cast<int>(l);
    check_internal(lane.channel_lane < kLanes, "a schedule has more lanes than a transport");
    if (schedule.lanes.size() == 1 && !op.codec && !p2p) place_on_boards(lane, settings);
    plan->lends |= std::ranges::any_of(lane.sends, &Unit::lend);
    for (const auto* queue : {&lane.sends, &lane.receives})
      for (const Unit& u : *queue) {
        plan->most_payload_bytes = std::max(plan->most_payload_bytes, u.payload_bytes);
        plan->most_peers = std::max<size_t>(plan->most_peers, u.peers);
      }
    for (const Unit& u : lane.sends) {
      const std::pair channel(lane.peers[u.first_peer], lane.channel_lane);
      if (std::ranges::find(plan->send_channels, channel) == plan->send_channels.end())
        plan->send_channels.push_back(channel);
    }
    plan->lanes.push_back(std::move(lane));
  }
  if (op.codec) plan->scratch_elements = g.segment_elements;
  for (const LanePlan& lane : plan->lanes)
    if (std::ranges::any_of(lane.receives, &Unit::staged)) plan->staged_bytes = g.total * size_of(op.dtype);
  if (!op.in_place) {
    const size_t mine = static_cast<size_t>(schedule.rank) * op.count;
    const bool gather = op.collective == Collective::all_gather, alone = schedule.size == 1;
    if (gather || op.collective == Collective::all_to_all || alone) {
      plan->copy_count = op.count;
      plan->copy_in_offset = gather ? 0 : mine;
      plan->copy_out_offset = alone ? 0 : mine;
    }
  }
  return plan;
}

std::shared_ptr<const Plan> make_meeting_plan(const Operation& op, const Schedule& schedule,
                                              uint8_t algorithm_id, uint32_t epoch,
                                              const PlanSettings& settings, const Topology& topology,
                                              size_t payload_bytes) {
  auto plan = std::make_shared<Plan>();
  plan->operation = op;
  plan->rank = schedule.rank;
  plan->size = schedule.size;
  plan->header = common_header(op, algorithm_id, epoch, settings, Geometry{});
  plan->header.flags = kInPeerMemory;
  plan->in_peer_memory = true;
  plan->topology = topology;
  plan->most_payload_bytes = payload_bytes;
  plan->most_peers = static_cast<size_t>(schedule.size) - 1;
  LanePlan& lane = plan->lanes.emplace_back();
  for (int p = 0; p < schedule.size; ++p)
    if (p != schedule.rank) lane.peers.push_back(p);
  lane.in_place.assign(lane.peers.size(), uint8_t{0});
  const Unit message{.peers = 1, .payload_bytes = payload_bytes};
  for (size_t i = 0; i < lane.peers.size(); ++i) {
    lane.sends.push_back(message);
    lane.sends.back().first_peer = static_cast<uint32_t>(i);
    plan->send_channels.emplace_back(lane.peers[i], lane.channel_lane);
  }
  lane.receives.push_back(message);
  lane.receives.back().kind = StepKind::recv_reduce;
  lane.receives.back().peers = static_cast<uint32_t>(lane.peers.size());
  return plan;
}

}  // namespace gw
