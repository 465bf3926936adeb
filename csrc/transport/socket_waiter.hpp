// Sleeps until one of many sockets has something new, or wake() is called. Edge-triggered: bytes that nobody wants to
// read yet end one wait, not all that follow.
#pragma once
#include "base/deadline.hpp"
#include "transport/file_descriptor.hpp"

namespace gw {

class SocketWaiter {
 public:
  SocketWaiter();
  void add(int socket);
  // True if anything happened since the last call.
  bool wait(Deadline until);
  bool poll();
  // From any thread. Ends the wait that runs, or else the next one.
  void wake();

 private:
  bool wait_ms(int milliseconds);
  FileDescriptor epoll_, event_;
};

}  // namespace gw
