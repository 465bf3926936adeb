// Two ranks that are about to be linked: all that a transport may need to say whether it can, and to do it.
#pragma once
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.hpp"
#include "transport/blob.hpp"
#include "transport/counters.hpp"
#include "transport/file_descriptor.hpp"
#include "transport/link_channel.hpp"
#include "transport/segment.hpp"

namespace gw {

struct TransportKind;

struct Pair {
  Pair(const Blob& own, const Blob& peer, const Config& settings, AtomicCounters& count)
      : mine(own), theirs(peer), config(settings), counters(count) {}

  const Blob& mine;
  const Blob& theirs;
  const Config& config;
  AtomicCounters& counters;
  Segment* segment = nullptr;                 // this rank's shared memory, if it has any
  std::unique_ptr<PeerSegment> peer_segment;  // the peer's, if it could be mapped
  std::string peer_segment_problem;           // else why not
  uint32_t usable = 0;                        // kinds this rank can use, see usable_kinds()
  // What the handshake fills in.
  const TransportKind* kind = nullptr;
  std::string address;       // where the peer answered
  int sockets_per_lane = 0;  // decided by the lower rank
  FileDescriptor control;
  std::array<std::vector<FileDescriptor>, kLanes> sockets;  // connected data sockets, by lane
  size_t channel_bytes = 0;  // of the channel to be opened, each direction; known when all pairs are

  bool same_host() const { return !mine.host.boot_id.empty() && mine.host == theirs.host; }
  bool same_machine() const { return !mine.host.boot_id.empty() && mine.host.boot_id == theirs.host.boot_id; }
};

// A line of transports.def.
struct TransportKind {
  std::string_view name, file, summary;
  std::string (*refusal)(const Pair&);
  int (*sockets)(const Pair&);
  std::unique_ptr<LinkChannel> (*open)(Pair&, int lane);
};
const std::vector<TransportKind>& transport_kinds();

// One bit per kind this rank can use with that peer, by position in the list, minding GRADWIRE_TRANSPORT.
uint32_t usable_kinds(const Pair& pair);
// The preferred kind both sides can use, or null.
const TransportKind* choose_kind(uint32_t mine, uint32_t theirs);
// Why `pair` cannot use the kinds it cannot use, for error messages.
std::string refusals(const Pair& pair);

}  // namespace gw
