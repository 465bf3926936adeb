// Out-of-band notices to and from one peer, over one TCP connection that every pair of ranks has. A frame on it is one
// type byte and one ControlMessage. The connection is also how a peer's death is noticed: it ends without a goodbye.
#pragma once
#include <vector>

#include "transport/counters.hpp"
#include "transport/file_descriptor.hpp"
#include "transport/transport.hpp"

namespace gw {

class ControlLink {
 public:
  ControlLink(FileDescriptor socket, AtomicCounters& counters);

  // False if the peer is unreachable. A notice that does not fit is dropped: the peer has many unread ones.
  bool send(const ControlMessage& message);
  void send_goodbye();
  bool receive(ControlMessage& message);
  bool push();  // true if bytes moved

  bool flushed() const { return out_.empty() || unreachable_; }
  // All notices have reached the peer's kernel, which says nothing about its process.
  bool delivered() const;
  bool left() const { return left_; }      // a goodbye has been read
  bool broken() const { return broken_; }  // the connection ended, and all that came before it has been read
  int socket() const { return socket_.get(); }

 private:
  enum class Type : uint8_t { notice = 0x4e, goodbye = 0x47 };
  static constexpr size_t kFrame = 1 + ControlMessage::kBytes;
  static constexpr size_t kMaxWaiting = 64;  // frames

  bool enqueue(Type type, const ControlMessage& message);
  bool fill();

  FileDescriptor socket_;
  AtomicCounters& counters_;
  std::vector<std::byte> out_;  // whole frames, the first may be partly sent
  std::array<std::byte, 8 * kFrame> in_{};
  size_t in_begin_ = 0, in_end_ = 0;
  bool unreachable_ = false, left_ = false, broken_ = false;
};

}  // namespace gw
