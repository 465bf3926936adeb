#include "transport/rendezvous.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "transport/address.hpp"
#include "transport/tcp.hpp"
#include "transport/tuning.hpp"

namespace gw {
namespace {

// Who has not said its hello by then is not one of us: a rank sends it as soon as it is connected.
constexpr auto kHelloTime = std::chrono::seconds(2);
// Connections that have not spoken yet. More wait in the kernel's queue until these are served or thrown out.
constexpr size_t kMaxIncoming = 256;
constexpr auto kIdleTime = std::chrono::milliseconds(100);
// Of a peer with several addresses: one that a packet does not reach says nothing; one that is connected but busy does
// answer later.
constexpr auto kConnectTime = std::chrono::seconds(1);
constexpr auto kReplyTime = std::chrono::seconds(5);
constexpr auto kLongestPause = std::chrono::milliseconds(200);

// Reads what is missing of a Hello. 1: complete, 0: not yet, -1: the connection is gone.
int read_hello(int fd, Hello& hello, size_t& got) {
  while (got < sizeof(Hello)) {
    const ssize_t n = ::recv(fd, reinterpret_cast<char*>(&hello) + got, sizeof(Hello) - got, MSG_DONTWAIT);
    if (n > 0)
      got += static_cast<size_t>(n);
    else if (n < 0 && errno == EINTR)
      continue;
    else
      return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : -1;
  }
  return 1;
}

// A fresh connection's buffer always has room for a Hello; anything less than all of it is a broken connection.
bool send_hello(int fd, const Hello& hello) {
  return ::send(fd, &hello, sizeof(hello), MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(sizeof(hello));
}

bool is_dead(int fd) {
  char byte;
  const ssize_t n = ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

}  // namespace

Rendezvous::Rendezvous(const Blob& mine, std::string secret, std::vector<std::unique_ptr<Pair>>& pairs,
                       int listener)
    : mine_(mine),
      handshake_(mine, std::move(secret)),
      pairs_(pairs),
      listener_(listener),
      problems_(pairs.size(), "it has not connected to this rank") {}

void Rendezvous::run(Deadline deadline, const std::function<void()>& idle) {
  for (int peer = 0; peer < mine_.rank; ++peer) outgoing_.push_back({peer, kControlLane, 0});
  const auto all_complete = [&] {
    return std::all_of(pairs_.begin(), pairs_.end(), [&](const auto& p) { return !p || complete(*p); });
  };
  for (;;) {
    // by index: finish() adds the data connections of a pair
    for (size_t i = 0; i < outgoing_.size(); ++i) serve(outgoing_[i]);
    std::erase_if(outgoing_, [](const Outgoing& o) { return o.state == Outgoing::State::done; });
    accept_all();
    std::erase_if(incoming_, [&](Incoming& i) { return !serve(i); });
    if (all_complete()) return;
    if (deadline.passed()) fail_missing();
    wait(deadline);
    if (idle) idle();
  }
}

void Rendezvous::wait(Deadline deadline) {
  std::vector<pollfd> fds;
  auto until = std::min(deadline.at(), Clock::now() + kIdleTime);
  if (incoming_.size() < kMaxIncoming) fds.push_back({listener_, POLLIN, 0});
  for (const auto& i : incoming_) {
    fds.push_back({i.socket.get(), POLLIN, 0});
    until = std::min(until, i.until);
  }
  for (const auto& o : outgoing_) {
    if (o.state == Outgoing::State::waiting_to_retry) {
      until = std::min(until, o.retry_at);
    } else {
      until = std::min(until, o.until);
      fds.push_back(
          {o.socket.get(), o.state == Outgoing::State::connecting ? short{POLLOUT} : short{POLLIN}, 0});
    }
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  ::poll(fds.data(), fds.size(), static_cast<int>(std::max<int64_t>(left, 0)));
}

// ---- the lower rank's side ---------------------------------------------------------------------------------------

void Rendezvous::accept_all() {
  while (incoming_.size() < kMaxIncoming) {
    FileDescriptor socket(::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE) fail_system("accepting a connection");
      return;  // none waiting, or it is gone already
    }
    incoming_.push_back({std::move(socket), Clock::now() + kHelloTime});
  }
}

bool Rendezvous::serve(Incoming& c) {
  const int state = read_hello(c.socket.get(), c.hello, c.got);
  if (state == 0) return Clock::now() < c.until;
  if (state > 0 && handshake_.genuine(c.hello) && !c.hello.reply) welcome(c);
  return false;
}

// The hello is genuine; its lane and socket are still only a peer's word.
void Rendezvous::welcome(Incoming& c) {
  if (c.hello.from < mine_.rank) return;  // the higher rank connects
  Pair& pair = *pairs_[static_cast<size_t>(c.hello.from)];
  FileDescriptor* place = slot(pair, c.hello.lane, c.hello.socket);
  // A second connection for the same place counts only if the first one has died, say while it waited for the reply.
  if (!place || (*place && !is_dead(place->get()))) return;
  if (c.hello.lane == kControlLane) {
    const int asked = pair.config.sockets;
    pair.sockets_per_lane = asked ? asked : sockets_for(round_trip_s(c.socket.get()));
  }
  if (!send_hello(c.socket.get(), handshake_.reply(pair, c.hello))) return;
  prepare_socket(c.socket.get());
  *place = std::move(c.socket);
  if (c.hello.lane == kControlLane) agree(pair, c.hello.kinds);
}

// ---- the higher rank's side --------------------------------------------------------------------------------------

void Rendezvous::serve(Outgoing& c) {
  using State = Outgoing::State;
  if (c.state == State::waiting_to_retry && Clock::now() >= c.retry_at) start(c);
  if (c.state == State::connecting) speak(c);
  if (c.state == State::waiting_for_reply) {
    const int state = read_hello(c.socket.get(), c.reply, c.got);
    if (state > 0) return finish(c);  // c may be gone: outgoing_ grows there
    if (state < 0)
      retry(c, "it refused the connection: is this a rank of the same job, with the same secret and epoch?");
  }
  if ((c.state == State::connecting || c.state == State::waiting_for_reply) && Clock::now() >= c.until)
    retry(c, "it does not answer at " + c.address);
}

void Rendezvous::start(Outgoing& c) {
  const Blob& peer = pairs_[static_cast<size_t>(c.peer)]->theirs;
  const std::string& known = pairs_[static_cast<size_t>(c.peer)]->address;
  const auto candidates = split_addresses(known.empty() ? peer.address : known);
  if (candidates.empty()) return retry(c, "it gave no address");
  c.address = candidates[c.tries++ % candidates.size()];
  c.until = candidates.size() > 1 ? Clock::now() + kConnectTime : Clock::time_point::max();
  const SocketAddress address = socket_address(c.address, peer.port);
  c.socket = FileDescriptor(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!c.socket) fail_system("creating a socket");
  if (::connect(c.socket.get(), address.get(), address.length) != 0 && errno != EINPROGRESS)
    return retry(c, std::strerror(errno));
  c.state = Outgoing::State::connecting;
}

void Rendezvous::speak(Outgoing& c) {
  pollfd fd{c.socket.get(), POLLOUT, 0};
  if (::poll(&fd, 1, 0) <= 0) return;
  int error = 0;
  socklen_t length = sizeof(error);
  ::getsockopt(c.socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error) return retry(c, std::strerror(error));
  const Pair& pair = *pairs_[static_cast<size_t>(c.peer)];
  if (!send_hello(c.socket.get(), handshake_.hello(pair.theirs, c.lane, c.socket_index, pair.usable)))
    return retry(c, std::strerror(errno));
  problems_[static_cast<size_t>(c.peer)] = "it accepted the connection but did not answer";
  c.got = 0;
  if (c.until != Clock::time_point::max()) c.until = Clock::now() + kReplyTime;
  c.state = Outgoing::State::waiting_for_reply;
}

void Rendezvous::finish(Outgoing& c) {
  if (!handshake_.genuine(c.reply) || !c.reply.reply || c.reply.from != c.peer || c.reply.lane != c.lane ||
      c.reply.socket != c.socket_index || c.reply.sockets < 1 || c.reply.sockets > kMostSockets)
    return retry(c, "something else than this job answers at its address");
  Pair& pair = *pairs_[static_cast<size_t>(c.peer)];
  prepare_socket(c.socket.get());
  c.state = Outgoing::State::done;
  const int peer = c.peer;
  const uint32_t lane = c.lane, kinds = c.reply.kinds, sockets = c.reply.sockets;
  *slot(pair, lane, c.socket_index) = std::move(c.socket);
  if (lane != kControlLane) return;
  pair.sockets_per_lane = static_cast<int>(sockets);
  pair.address = c.address;
  agree(pair, kinds);
  // c is not used any more: outgoing_ grows here
  for (uint32_t l = 0; l < kLanes; ++l)
    for (uint32_t s = 0; s < pair.sockets[l].size(); ++s) outgoing_.push_back({peer, l, s});
}

void Rendezvous::retry(Outgoing& c, const std::string& problem) {
  problems_[static_cast<size_t>(c.peer)] = problem;
  c.socket.reset();
  c.state = Outgoing::State::waiting_to_retry;
  c.retry_at = Clock::now() + c.pause;
  c.pause = std::min<Clock::duration>(2 * c.pause, kLongestPause);
}

// ---- both ----------------------------------------------------------------------------------------------------------

// Both sides know both sets of kinds, and take the first common one of the same list.
void Rendezvous::agree(Pair& pair, uint32_t their_kinds) {
  pair.kind = choose_kind(pair.usable, their_kinds);
  if (!pair.kind) {
    const std::string why = refusals(pair);
    throw Error(
        ErrorKind::rendezvous,
        "ranks " + std::to_string(mine_.rank) + " and " + std::to_string(pair.theirs.rank) + " (" +
            pair.theirs.host_name + ") have no transport in common: " +
            (why.empty() ? "rank " + std::to_string(pair.theirs.rank) + " can use none of this rank's" : why),
        {.rank = mine_.rank, .peer = pair.theirs.rank, .host = pair.theirs.host_name});
  }
  for (auto& lane : pair.sockets) lane.resize(static_cast<size_t>(pair.kind->sockets(pair)));
}

// Where a connection belongs, or null if there is no such place.
FileDescriptor* Rendezvous::slot(Pair& pair, uint32_t lane, uint32_t socket) {
  if (lane == kControlLane) return socket == 0 ? &pair.control : nullptr;
  if (lane >= kLanes || socket >= pair.sockets[lane].size()) return nullptr;
  return &pair.sockets[lane][socket];
}

bool Rendezvous::complete(const Pair& pair) const {
  if (!pair.kind || !pair.control) return false;
  for (const auto& lane : pair.sockets)
    for (const auto& socket : lane)
      if (!socket) return false;
  return true;
}

void Rendezvous::fail_missing() const {
  std::string names;
  ErrorContext context{.rank = mine_.rank};
  for (const auto& pair : pairs_) {
    if (!pair || complete(*pair)) continue;
    const Blob& peer = pair->theirs;
    if (context.peer < 0) {
      context.peer = peer.rank;
      context.host = peer.host_name;
    }
    names += (names.empty() ? "rank " : "; rank ") + std::to_string(peer.rank) + " (" + peer.host_name +
             ", " + peer.address + " port " + std::to_string(peer.port) +
             "): " + problems_[static_cast<size_t>(peer.rank)];
  }
  throw Error(ErrorKind::rendezvous,
              "rank " + std::to_string(mine_.rank) + " could not connect in time to " + names, context);
}

}  // namespace gw
