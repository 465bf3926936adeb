#include "transport/tcp.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "transport/pair.hpp"
#include "transport/tuning.hpp"

namespace gw {
namespace {
// One recv() at most: so much is still in the L2 cache when the reduction reads it.
constexpr size_t kMaxReceive = size_t{256} << 10;
}  // namespace

void prepare_socket(int fd) {
  const int on = 1;
  if (::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0)
    fail_system("setsockopt(TCP_NODELAY)");
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) fail_system("fcntl(O_NONBLOCK)");
}

// ---- one socket --------------------------------------------------------------------------------------------------

TcpStream::TcpStream(FileDescriptor socket, size_t capacity, AtomicCounters& counters)
    : socket_(std::move(socket)), out_(capacity), in_(capacity), counters_(counters) {}

std::byte* TcpStream::reserve(size_t bytes) {
  if (broken_) return nullptr;
  if (out_.room() < bytes) push();
  if (out_.room() < bytes) return nullptr;
  out_.rewind_if_empty();
  return out_.end();
}

void TcpStream::commit(size_t bytes) {
  if (broken_) return;
  out_.grow(bytes);
  push();
}

// The kernel reads `rest` where it lies; what it does not take at once is copied to wait its turn.
void TcpStream::commit(size_t head, const std::byte* rest, size_t bytes) {
  if (!flushed()) push();
  if (broken_) return;
  iovec pieces[] = {{out_.end(), head}, {const_cast<std::byte*>(rest), bytes}};
  const size_t sent = flushed() ? send(pieces, 2) : 0;
  if (broken_ || sent == head + bytes) return;
  const size_t from = std::max(sent, head) - head;
  std::memcpy(out_.end() + head + from, rest + from, bytes - from);
  out_.grow(head + bytes);
  out_.shrink(sent);
}

bool TcpStream::push() {
  bool moved = false;
  while (out_.used()) {
    iovec piece{out_.begin(), out_.used()};
    const size_t n = send(&piece, 1);
    if (n == 0) break;
    out_.shrink(n);
    moved = true;
  }
  return moved;
}

// Bytes that the kernel took; none: not now, or never again.
size_t TcpStream::send(iovec* pieces, size_t count) {
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = count;
  ssize_t n;
  do n = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) fail();
  if (n <= 0) return 0;
  AtomicCounters::add(counters_.socket_bytes_sent, static_cast<uint64_t>(n));
  return static_cast<size_t>(n);
}

// Returning null after EAGAIN only is what makes edge-triggered events enough for sleep().
const std::byte* TcpStream::peek(size_t bytes) {
  if (bytes > in_.capacity()) return nullptr;
  if (in_.used() < bytes) in_.rewind_if_empty();
  while (in_.used() < bytes)
    if (!receive(bytes - in_.used())) return nullptr;
  return in_.begin();
}

bool TcpStream::receive(size_t wanted) {
  const size_t most = std::min(in_.room(), std::max(wanted, kMaxReceive));
  for (;;) {
    const ssize_t n = ::recv(socket_.get(), in_.end(), most, MSG_DONTWAIT);
    if (n > 0) {
      in_.grow(static_cast<size_t>(n));
      AtomicCounters::add(counters_.socket_bytes_received, static_cast<uint64_t>(n));
      return true;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) fail();
    return false;
  }
}

// What is left to send can go nowhere. What was received stays readable.
void TcpStream::fail() {
  broken_ = true;
  out_.clear();
}

// ---- the channel -------------------------------------------------------------------------------------------------

TcpChannel::TcpChannel(std::vector<FileDescriptor> sockets, size_t capacity, AtomicCounters& counters)
    : capacity_(capacity), counters_(counters) {
  // A message is at most a quarter of the channel; half for each of several sockets holds two of them.
  const size_t each = mirror_bytes(sockets.size() > 1 ? capacity / 2 : capacity);
  streams_.reserve(sockets.size());
  for (auto& socket : sockets) streams_.emplace_back(std::move(socket), each, counters);
}

void TcpChannel::commit(size_t bytes) {
  streams_[out_].commit(bytes);
  out_ = next(out_);
  AtomicCounters::add(counters_.bytes_sent, bytes);
}

void TcpChannel::commit(size_t head, const std::byte* rest, size_t bytes) {
  streams_[out_].commit(head, rest, bytes);
  out_ = next(out_);
  AtomicCounters::add(counters_.bytes_sent, head + bytes);
}

void TcpChannel::consume(size_t bytes) {
  streams_[in_].consume(bytes);
  in_ = next(in_);
  AtomicCounters::add(counters_.bytes_received, bytes);
}

bool TcpChannel::flushed() const {
  return std::all_of(streams_.begin(), streams_.end(), [](const TcpStream& s) { return s.flushed(); });
}

bool TcpChannel::progress() {
  bool moved = false;
  for (auto& stream : streams_)
    if (!stream.flushed()) moved |= stream.push();
  return moved;
}

bool TcpChannel::broken() const {
  return std::any_of(streams_.begin(), streams_.end(), [](const TcpStream& s) { return s.broken(); });
}

std::vector<int> TcpChannel::sockets() const {
  std::vector<int> all;
  for (const auto& stream : streams_) all.push_back(stream.socket());
  return all;
}

// ---- this transport's entry in the list ------------------------------------------------------------------------

std::string tcp_refusal(const Pair&) { return {}; }  // works between any two ranks that could connect at all

int tcp_sockets(const Pair& pair) { return pair.sockets_per_lane; }

std::unique_ptr<LinkChannel> open_tcp(Pair& pair, int lane) {
  for (const auto& socket : pair.sockets[static_cast<size_t>(lane)])
    choose_congestion_control(socket.get(), pair.config.congestion);
  return std::make_unique<TcpChannel>(std::move(pair.sockets[static_cast<size_t>(lane)]),
                                      2 * pair.mine.channel_bytes,  // more is on its way than a cache holds
                                      pair.counters);
}

}  // namespace gw
