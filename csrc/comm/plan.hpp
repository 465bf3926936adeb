// A Plan is a Schedule given its place in memory: chunks cut into segments, each (step, segment) a Unit with
// offsets, payload size, what to do with values and frames, and what it has to wait for. It depends on the Operation
// and the communicator alone, so it is made once and reused by every call of the same shape.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "codec/wire.hpp"
#include "comm/operation.hpp"
#include "schedule/schedule.hpp"
#include "schedule/topology.hpp"

namespace gw {

inline constexpr size_t kNoSlot = ~size_t{0};
inline constexpr size_t kSlotHead =
    64;  // in front of a kept payload: its size; a cache line, so that it stays aligned

struct Unit {
  StepKind kind = StepKind::send;
  bool complete = false;
  bool from_input = false;  // this rank's value still lies in `in`, and its residual is not yet folded in
  bool encode =
      false;  // send: this rank makes the frame. recv_reduce: it owns the chunk and makes the final frame
  bool adopt = false;       // after encode, this rank's own value becomes what its peers will decode
  bool own_frame = false;   // recv_reduce: this rank's share was already sent; use what the peers got
  bool keep_frame = false;  // recv: a later send forwards the frame
  bool raw = false;         // there is a codec, but this message does without it
  // Where this rank's array lies in shared memory, the message lends the value. recv: the ask did, so the answer is
  // already in its place.
  bool lend = false;
  bool settle = false;                 // send: the residual is paid into this rank's own value first
  bool staged = false;                 // the output is a partial sum that has no place in `out`
  int step = 0;                        // index into the lane's steps, for error messages
  uint32_t first_peer = 0, peers = 0;  // into LanePlan::peers
  size_t in_offset = 0, out_offset = 0, count = 0;  // elements
  uint64_t first = 0;        // place of the elements in the whole operation: a codec's key for random numbers
  size_t payload_bytes = 0;  // at most, if the codec's size depends on the values
  size_t slot = kNoSlot;   // where the frame is kept, bytes into the frame store: its size, then the payload
  size_t board = kNoSlot;  // place on the sender's board (comm/board.hpp), if this may be posted there
  bool posts = false;      // of several sends of the same values: the first, which writes them there
  uint32_t after = 0;      // units of the lane's other queue that must be done before this one may start
  uint16_t round = 0, chunk = 0;
  uint32_t segment = 0;
};

// Sends and receives of a lane are two in-order queues; `after` ties them together.
struct LanePlan {
  int channel_lane = 0;
  std::vector<Unit> sends, receives;
  std::vector<int> peers;
  // By index into `peers`: this message and its answer share one place (Channel::ask). The send of a share is the ask,
  // the recv_reduce that completes the chunk writes the answer, the recv of the finished chunk reads it.
  std::vector<uint8_t> in_place;
};

struct Plan {
  Operation operation;
  int rank = 0, size = 1;
  std::vector<LanePlan> lanes;
  std::vector<std::pair<int, int>> send_channels;  // (peer, lane) of every channel that is sent on
  size_t frame_store_bytes = 0;
  size_t scratch_elements = 0;    // fp32
  size_t most_payload_bytes = 0;  // of one message
  size_t most_peers = 0;          // of one receive
  size_t staged_bytes = 0;        // for partial sums: reduce_scatter has an output for its own share only
  bool lends = false;             // some message, if the arrays lie in shared memory
  double scale = 1;               // applied by the rank that completes a chunk
  // Copied before the first step: this rank's own share, in elements.
  size_t copy_in_offset = 0, copy_out_offset = 0, copy_count = 0;
  FrameHeader header;  // fields common to every message; seq is filled in per call
  // Values go through memory of GPUs (driver_peer.hpp), by a schedule for this topology; messages only say who takes part.
  bool in_peer_memory = false;
  Topology topology{};
};

// Settings that all ranks must share; they travel in every header as a hash.
struct PlanSettings {
  size_t segment_bytes;
  size_t channel_bytes;
  uint32_t topology = 0;  // hash of the one that the schedule was made for
  std::vector<uint8_t>
      shares_memory{};  // by peer; empty: nobody does. No need to agree but for the two of a pair
};

std::shared_ptr<const Plan> make_plan(const Operation& operation, const Schedule& schedule,
                                      uint8_t algorithm_id, uint32_t epoch, const PlanSettings& settings);
// Of an operation in peer memory: one message of `payload_bytes` to every rank, and one from each.
std::shared_ptr<const Plan> make_meeting_plan(const Operation& operation, const Schedule& schedule,
                                              uint8_t algorithm_id, uint32_t epoch,
                                              const PlanSettings& settings, const Topology& topology,
                                              size_t payload_bytes);

}  // namespace gw
