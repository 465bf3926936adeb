// Closing TCP connections so that what was sent before arrives: a socket that is closed with unread bytes in it, or
// gets some afterwards, is reset, and a reset throws away what the peer has not read yet.
#pragma once
#include <vector>

#include "base/deadline.hpp"

namespace gw {

void wait_until_writable(const std::vector<int>& sockets, Deadline until);
// The peers' kernels have everything (or their connection is gone), or `until` has come.
void wait_until_delivered(const std::vector<int>& sockets, Deadline until);
void finish_sending(const std::vector<int>& sockets);
// Bounded: a peer that goes on sending does not keep us.
void discard_unread(const std::vector<int>& sockets);

}  // namespace gw
