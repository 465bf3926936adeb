#include "transport/linger.hpp"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

namespace gw {
namespace {

constexpr int kPollMs = 1;

bool in_flight(int socket) {
  tcp_info info{};
  socklen_t length = sizeof(info);
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) != 0 || info.tcpi_state == TCP_CLOSE)
    return false;
  int unacknowledged = 0;
  return ::ioctl(socket, SIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0;
}

void discard(int socket) {
  constexpr int kMaxReads = 256;
  std::array<char, 65536> sink;
  for (int i = 0; i < kMaxReads; ++i)
    if (::recv(socket, sink.data(), sink.size(), MSG_DONTWAIT) <= 0) return;
}

}  // namespace

void wait_until_writable(const std::vector<int>& sockets, Deadline until) {
  std::vector<pollfd> fds;
  for (const int socket : sockets)
    if (in_flight(socket)) fds.push_back({socket, POLLOUT, 0});
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until.left()).count();
  ::poll(fds.data(), fds.size(), static_cast<int>(std::min<int64_t>(left, kPollMs)));
}

void wait_until_delivered(const std::vector<int>& sockets, Deadline until) {
  while (std::any_of(sockets.begin(), sockets.end(), in_flight) && !until.passed())
    ::poll(nullptr, 0, kPollMs);
}

void finish_sending(const std::vector<int>& sockets) {
  for (const int socket : sockets) ::shutdown(socket, SHUT_WR);
}

void discard_unread(const std::vector<int>& sockets) {
  for (const int socket : sockets) discard(socket);
}

}  // namespace gw
