// A transport moves bytes between ranks; it knows no dtype, codec or schedule. All calls but sleep() return at once.
// A transport is driven by one thread at a time (the executor sees to that); ring() and counters() are the exceptions.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/deadline.hpp"
#include "transport/arena.hpp"

namespace gw {

// Lanes 0 and 1 carry collectives, lane 2 carries send/recv.
inline constexpr int kCollectiveLanes = 2;
inline constexpr int kP2pLane = 2;
inline constexpr int kLanes = 3;

// Ordered, reliable messages to and from one peer on one lane. A channel carries no lengths: the receiver says how long
// a message is when it peeks and consumes. A message is at most capacity() / 4 bytes.
class Channel {
 public:
  virtual ~Channel() = default;
  // Room for one whole outgoing message, contiguous and 64-byte aligned at least for shm, or null: not now.
  virtual std::byte* reserve(size_t bytes) = 0;
  // Sends the message written into the last reserve(). At most as many bytes as reserved.
  virtual void commit(size_t bytes) = 0;
  // The same for a message of which only the first `head` bytes lie there, and the rest at `rest`, which is the caller's
  // again on return. Used only if it gathers().
  virtual bool gathers() const { return false; }
  virtual void commit(size_t /*head*/, const std::byte* /*rest*/, size_t /*bytes*/) {}
  // The first `bytes` bytes of the oldest unread message, contiguous, valid until consume(), or null: not here yet.
  // May be called again with more bytes (header first, then header and payload).
  virtual const std::byte* peek(size_t bytes) = 0;
  // Frees the oldest message, whose whole size is `bytes`.
  virtual void consume(size_t bytes) = 0;
  // All that was committed has left this process's private buffers: the peer can get it without our help.
  virtual bool flushed() const = 0;
  virtual size_t capacity() const = 0;

  // Where the two ends share memory a message can be answered in place: the receiver writes an answer of the same size
  // over it, and the sender reads that where its own message lay. Asks and plain messages do not mix: no commit() while
  // an ask is unanswered. Used only if the transport says shares_memory(peer).
  virtual void ask(size_t) {}                           // like commit()
  virtual std::byte* answer_slot() { return nullptr; }  // the message peek() returned, writable
  virtual void answer(size_t) {}                        // like consume(): `bytes` are the answer
  virtual const std::byte* peek_answer(size_t) {
    return nullptr;
  }  // to the oldest ask, or null: not here yet
  virtual void consume_answer(size_t) {}
  // The peer has consumed all that was committed: memory that messages lent is this rank's own again.
  virtual bool taken() { return true; }
};

// Out-of-band notices between any two ranks: abort, are-you-alive, status, goodbye. Meaning belongs to comm/.
struct ControlMessage {
  static constexpr size_t kBytes = 512;
  std::array<std::byte, kBytes> bytes{};
};

enum class PeerState : uint8_t {
  alive,  // as far as known
  left,   // said goodbye: closed its communicator on purpose
  lost    // its connection broke without a goodbye
};

struct Counters {
  uint64_t bytes_sent = 0;  // handed to channels, headers included
  uint64_t bytes_received = 0;
  uint64_t socket_bytes_sent = 0;  // accepted by the kernel on TCP sockets (control included)
  uint64_t socket_bytes_received = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual Channel& channel(int peer, int lane) = 0;
  virtual std::string kind(int peer) const = 0;  // "inproc", "shm", "tcp"
  virtual std::string host(int peer) const = 0;  // host name, for error messages
  // That compete for this rank's cores: also those in other containers and network namespaces of this kernel.
  virtual int ranks_on_this_machine() const = 0;
  virtual bool shares_memory(int peer) const = 0;  // its channels can be answered in place; both ends agree
  // The memory that a message of `peer` lends (arena.hpp), writable, valid until the next call for this peer; null if the
  // peer is gone. Throws Error(frame) if there is no such memory, which there never is without shared memory.
  virtual std::byte* lent(int peer, const Loan& loan) = 0;
  // 2 * channel_bytes() of a rank's memory, which its peers on the host can only read: what it has for several of them it
  // writes there once. This rank's own, or that of a peer which shares memory; null if there are but two ranks.
  virtual std::byte* board(int rank) = 0;
  // Numbers that are the same on every rank. Equal hosts: the two can share memory. Equal machines: they run on the same
  // kernel and compete for its cores, as network namespaces and containers of one machine do.
  virtual int host_number(int peer) const = 0;
  virtual int machine_number(int peer) const = 0;

  // Moves bytes that wait in private buffers. True if anything moved.
  virtual bool progress() = 0;
  // Returns when a peer may have made progress possible, or at `until`, whichever is first; may return early. Lost
  // wake-ups are impossible: a message committed by a peer before or during the call ends it.
  virtual void sleep(Deadline until) = 0;
  // Ends a sleep() of this rank from another thread (a new operation was queued, abort() was called).
  virtual void ring() = 0;

  // False if the peer is unreachable. Never blocks for long; a full socket drops the notice.
  virtual bool control_send(int peer, const ControlMessage& message) = 0;
  virtual bool control_receive(int peer, ControlMessage& message) = 0;  // false: none waiting
  // False: the peer's host has not even acknowledged the last notice, so the path is cut or the host is down.
  virtual bool control_delivered(int) { return true; }
  // lost/left become visible only after control_receive has returned false.
  virtual PeerState peer_state(int peer) = 0;
  // Says goodbye to all peers and closes. Idempotent. Afterwards only counters() may be called.
  virtual void close() = 0;

  virtual Counters counters() const = 0;
  // Buffers of all channels of this rank, outgoing and, if they are not the peer's memory, incoming. Constant; pages that
  // were never used do not exist yet.
  virtual size_t staging_bytes() const = 0;
  // What every channel holds at least: what plans count on, so the same number on every rank.
  virtual size_t channel_bytes() const = 0;
};

}  // namespace gw
