#include "transport/socket_waiter.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>

namespace gw {

SocketWaiter::SocketWaiter()
    : epoll_(::epoll_create1(EPOLL_CLOEXEC)), event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!epoll_ || !event_) fail_system("creating an epoll instance");
  add(event_.get());
}

void SocketWaiter::add(int socket) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  if (socket == event_.get()) event.events = EPOLLIN | EPOLLET;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket, &event) != 0) fail_system("epoll_ctl");
}

bool SocketWaiter::wait(Deadline until) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until.left()).count();
  return wait_ms(static_cast<int>(std::min<int64_t>(left, 60'000)));
}

bool SocketWaiter::poll() { return wait_ms(0); }

bool SocketWaiter::wait_ms(int milliseconds) {
  // what does not fit is reported by the next wait
  std::array<epoll_event, 64> events;
  return ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), milliseconds) != 0;
}

void SocketWaiter::wake() {
  const uint64_t one = 1;
  // Fails only if the counter is at its maximum, and then the event is pending anyway.
  [[maybe_unused]] const ssize_t n = ::write(event_.get(), &one, sizeof(one));
}

}  // namespace gw
