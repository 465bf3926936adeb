// Shared memory between two ranks of a host: each reads the other's ring in place. The rings themselves are in
// ring_channel.hpp, the memory in segment.hpp; this file is the entry in the list of transports.
#include "transport/pair.hpp"
#include "transport/ring_channel.hpp"

namespace gw {

std::string shm_refusal(const Pair& pair) {
  if (!pair.same_host())
    return "rank " + std::to_string(pair.theirs.rank) + " is on another host or in another container (" +
           pair.theirs.host_name + ")";
  if (!pair.segment) return "this rank has no shared memory";
  if (!pair.peer_segment) return pair.peer_segment_problem;
  return {};
}

int shm_sockets(const Pair&) { return 0; }

std::unique_ptr<LinkChannel> open_shm(Pair& pair, int lane) {
  return std::make_unique<RingChannel>(pair.segment->writer(pair.theirs.rank, lane, pair.channel_bytes),
                                       pair.peer_segment->reader(pair.mine.rank, lane, pair.channel_bytes),
                                       pair.peer_segment->bell(), pair.counters);
}

}  // namespace gw
