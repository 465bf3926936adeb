// The shared memory of one rank: its doorbell and its outgoing rings to every peer. A memfd: no name in /dev/shm, and
// gone with the last process that has it mapped, also after a crash. Peers of the same host open it as
// /proc/<pid>/fd/<fd>, which needs the same user, and recognise it by a random nonce.
#pragma once
#include <vector>

#include "transport/blob.hpp"
#include "transport/doorbell.hpp"
#include "transport/file_descriptor.hpp"
#include "transport/mirror_ring.hpp"
#include "transport/peer_arena.hpp"
#include "transport/transport.hpp"

namespace gw {

// Where things lie; the same arithmetic on both sides, from local values alone. A rank has no rings to itself: its board
// lies there.
struct SegmentLayout {
  int size = 0;
  size_t channel_bytes = 0;

  size_t ring(int peer, int lane) const {
    return static_cast<size_t>(peer) * kLanes + static_cast<size_t>(lane);
  }
  size_t head_bytes() const;  // everything before the rings, whole pages
  size_t ring_offset(int peer, int lane) const { return head_bytes() + ring(peer, lane) * channel_bytes; }
  size_t board_offset(int owner) const { return ring_offset(owner, 0); }
  size_t most_board_bytes() const { return kLanes * channel_bytes; }
  size_t bytes() const { return ring_offset(size, 0); }
};

struct SegmentHead {
  Nonce nonce{};
  Doorbell bell;
  // RingControl controls[size * kLanes] follow

  RingControl* controls() { return reinterpret_cast<RingControl*>(this + 1); }
};

// A mapping of the first pages of a segment.
class SegmentMap {
 public:
  SegmentMap(int fd, size_t bytes);
  SegmentMap(const SegmentMap&) = delete;
  ~SegmentMap();
  SegmentHead* head() const { return static_cast<SegmentHead*>(memory_); }

 private:
  void* memory_;
  size_t bytes_;
};

// This rank's own.
class Segment {
 public:
  Segment(SegmentLayout layout, const Nonce& nonce);

  int file() const { return file_.get(); }
  // No peer can map it any more; those who have, keep it.
  void close_file() { file_.reset(); }
  Doorbell& bell() { return map_.head()->bell; }
  // `bytes`: of the ring, at most layout.channel_bytes; the same at both ends.
  RingWriter writer(int peer, int lane, size_t bytes);
  std::byte* board(int self, size_t bytes);

 private:
  SegmentLayout layout_;
  FileDescriptor file_;
  SegmentMap map_;
  std::vector<MirrorMap> rings_;
};

// A peer's.
class PeerSegment {
 public:
  // Throws Error(rendezvous) if it cannot be opened, or is not what `peer` says.
  PeerSegment(SegmentLayout layout, const Blob& peer);

  void close_file() { file_.reset(); }  // once all rings are mapped
  Doorbell& bell() { return map_.head()->bell; }
  // The process is gone. Its sockets need not be: children that it forked may hold them open.
  bool owner_died() const;
  // The memory that a message of that peer lends, or null if the peer is gone.
  std::byte* lent(const Loan& loan);
  // The ring from that peer to rank `self`.
  RingReader reader(int self, int lane, size_t bytes);
  std::byte* board(int owner, size_t bytes);  // not writable

 private:
  SegmentLayout layout_;
  const int64_t pid_;
  FileDescriptor process_;  // opened before the nonce is compared: no other process can have taken the number
  FileDescriptor file_;
  SegmentMap map_;
  std::vector<MirrorMap> rings_;
  PeerArena arena_;
};

}  // namespace gw
