#include "transport/control_link.hpp"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>

namespace gw {

ControlLink::ControlLink(FileDescriptor socket, AtomicCounters& counters)
    : socket_(std::move(socket)), counters_(counters) {}

bool ControlLink::send(const ControlMessage& message) {
  if (unreachable_ || left_ || broken_) return false;
  if (out_.size() + kFrame > kMaxWaiting * kFrame) {
    push();
    if (out_.size() + kFrame > kMaxWaiting * kFrame) return !unreachable_;
  }
  return enqueue(Type::notice, message);
}

bool ControlLink::delivered() const {
  int unacknowledged = 0;
  return out_.empty() && ::ioctl(socket_.get(), SIOCOUTQ, &unacknowledged) == 0 && unacknowledged == 0;
}

void ControlLink::send_goodbye() {
  if (!unreachable_ && !broken_) enqueue(Type::goodbye, {});
}

bool ControlLink::enqueue(Type type, const ControlMessage& message) {
  out_.push_back(static_cast<std::byte>(type));
  out_.insert(out_.end(), message.bytes.begin(), message.bytes.end());
  push();
  return !unreachable_;
}

bool ControlLink::push() {
  size_t sent = 0;
  while (sent < out_.size()) {
    const ssize_t n =
        ::send(socket_.get(), out_.data() + sent, out_.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      sent += static_cast<size_t>(n);
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else {
      // Only sending is over: what the peer said before it went is still to be read.
      if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) unreachable_ = true;
      break;
    }
  }
  if (sent) out_.erase(out_.begin(), out_.begin() + static_cast<ptrdiff_t>(sent));
  AtomicCounters::add(counters_.socket_bytes_sent, sent);
  return sent > 0;
}

bool ControlLink::receive(ControlMessage& message) {
  if (!out_.empty()) push();
  while (!broken_) {
    if (in_end_ - in_begin_ < kFrame) {
      if (!fill()) return false;
      continue;
    }
    const std::byte* frame = in_.data() + in_begin_;
    in_begin_ += kFrame;
    if (frame[0] == static_cast<std::byte>(Type::notice)) {
      std::memcpy(message.bytes.data(), frame + 1, ControlMessage::kBytes);
      return true;
    }
    if (frame[0] == static_cast<std::byte>(Type::goodbye))
      left_ = true;
    else
      broken_ = true;  // not what this version of gradwire sends: nothing after it can be trusted
  }
  return false;
}

// More bytes, or false: none now, or none ever.
bool ControlLink::fill() {
  std::memmove(in_.data(), in_.data() + in_begin_, in_end_ - in_begin_);
  in_end_ -= in_begin_;
  in_begin_ = 0;
  for (;;) {
    const ssize_t n = ::recv(socket_.get(), in_.data() + in_end_, in_.size() - in_end_, MSG_DONTWAIT);
    if (n > 0) {
      in_end_ += static_cast<size_t>(n);
      AtomicCounters::add(counters_.socket_bytes_received, static_cast<uint64_t>(n));
      return true;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) broken_ = true;
    return false;
  }
}

}  // namespace gw
