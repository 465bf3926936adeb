#include "transport/per_peer.hpp"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/error.hpp"
#include "base/log.hpp"
#include "transport/address.hpp"
#include "transport/linger.hpp"
#include "transport/tuning.hpp"

namespace gw {
namespace {

// With peers of both sorts neither wait covers the other: short futex waits, sockets looked at in between. Half a TCP
// round trip between hosts, so it is hardly noticed.
constexpr auto kMixedSlice = std::chrono::microseconds(200);
// Nobody rings when a peer dies: the caller has to look at the control connections now and then.
constexpr auto kBellSlice = std::chrono::milliseconds(50);
// A broken data connection, or a process that has ended, may be the end of a peer whose goodbye is still on its way on the control connection.
constexpr auto kGoodbyeTime = std::chrono::seconds(1);
constexpr auto kLinger = std::chrono::seconds(1);

// Which way to a peer was chosen, for whoever listens to the log.
void describe(const Blob& mine, const Pair& pair) {
  std::string way = "rank " + std::to_string(mine.rank) + " reaches rank " +
                    std::to_string(pair.theirs.rank) + " (" + pair.theirs.host_name + ") by " +
                    std::string(pair.kind->name) + ", " + ends_of(pair.control.get());
  if (pair.kind->sockets(pair)) way += ", sockets a lane: " + std::to_string(pair.kind->sockets(pair));
  log(LogLevel::info, way);
}

// The lowest rank that is in the same place, by what all ranks know of all.
template <class Same>
int lowest(const std::vector<const Blob*>& blobs, size_t p, Same&& same) {
  for (size_t q = 0; q < p; ++q)
    if (!blobs[p]->host.boot_id.empty() && same(*blobs[p], *blobs[q])) return static_cast<int>(q);
  return static_cast<int>(p);
}

// Where no two ranks share memory all channels are streams, which hold twice as much (tcp.cpp). Where more than two share
// it, each core's cache has rings to all of them: smaller ones.
size_t channel_bytes_for(size_t setting, const std::vector<int>& host_numbers) {
  const std::set<int> hosts(host_numbers.begin(), host_numbers.end());
  if (host_numbers.size() > 1 && hosts.size() == host_numbers.size()) return 2 * setting;
  return host_numbers.size() > 2 && hosts.size() == 1 ? std::max(setting / 4, kSmallestChannel) : setting;
}

}  // namespace

PerPeerTransport::PerPeerTransport(std::unique_ptr<AtomicCounters> counters, const Blob& mine,
                                   std::unique_ptr<Segment> segment,
                                   std::vector<std::unique_ptr<Pair>>& pairs)
    : rank_(mine.rank),
      process_(::getpid()),
      counters_(std::move(counters)),
      segment_(std::move(segment)),
      own_bell_(segment_ ? nullptr : std::make_unique<Doorbell>()),
      bell_(segment_ ? segment_->bell() : *own_bell_),
      peers_(pairs.size()) {
  peers_[static_cast<size_t>(rank_)].kind = "self";
  peers_[static_cast<size_t>(rank_)].host = mine.host_name;
  std::vector<const Blob*> blobs;
  std::vector<int> host_numbers;
  for (const auto& pair : pairs) blobs.push_back(pair ? &pair->theirs : &mine);
  for (size_t p = 0; p < pairs.size(); ++p) {
    peers_[p].host_number = lowest(blobs, p, [](const Blob& a, const Blob& b) {
      return a.host == b.host && a.memory_file >= 0 && b.memory_file >= 0;
    });
    host_numbers.push_back(peers_[p].host_number);
    peers_[p].machine_number =
        lowest(blobs, p, [](const Blob& a, const Blob& b) { return a.host.boot_id == b.host.boot_id; });
  }
  channel_bytes_ = channel_bytes_for(mine.channel_bytes, host_numbers);
  for (size_t p = 0; p < pairs.size(); ++p) {
    if (!pairs[p]) continue;
    Pair& pair = *pairs[p];
    Peer& peer = peers_[p];
    peer.kind = pair.kind->name;
    peer.host = pair.theirs.host_name;
    ranks_on_this_machine_ += pair.same_machine();
    for (int lane = 0; lane < kLanes; ++lane) {
      auto& channel = peer.channels[static_cast<size_t>(lane)];
      // Few pairs send to one another at a time.
      pair.channel_bytes = lane == kP2pLane ? mine.channel_bytes : channel_bytes_;
      channel = pair.kind->open(pair, lane);
      staging_bytes_ += channel->capacity() * (channel->sockets().empty() ? 1 : 2);
      (channel->sockets().empty() ? shared_ : streamed_).push_back(channel.get());
    }
    // Nobody needs to map what this pair does not use.
    peer.segment = std::move(pair.peer_segment);
    if (shares_memory(static_cast<int>(p)) && pairs.size() > 2)
      peer.board = peer.segment->board(static_cast<int>(p), 2 * channel_bytes_);
    if (peer.segment) peer.segment->close_file();
    if (pair.config.heartbeat_s > 0) set_heartbeat(pair.control.get(), pair.config.heartbeat_s);
    describe(mine, pair);
    peer.control = std::make_unique<ControlLink>(std::move(pair.control), *counters_);
  }
  if (!shared_.empty() && pairs.size() > 2) {
    peers_[static_cast<size_t>(rank_)].board = segment_->board(rank_, 2 * channel_bytes_);
    staging_bytes_ += 2 * channel_bytes_;
  }
  if (segment_) segment_->close_file();
  if (streamed_.empty()) return;
  waiter_ = std::make_unique<SocketWaiter>();
  for (const int socket : sockets()) waiter_->add(socket);
}

PerPeerTransport::Peer& PerPeerTransport::peer(int p) {
  check_internal(p >= 0 && p < size() && p != rank_, "no such peer");
  return peers_[static_cast<size_t>(p)];
}

Channel& PerPeerTransport::channel(int p, int lane) {
  check_internal(lane >= 0 && lane < kLanes, "no such lane");
  return *peer(p).channels[static_cast<size_t>(lane)];
}

std::string PerPeerTransport::kind(int p) const { return peers_.at(static_cast<size_t>(p)).kind; }
std::string PerPeerTransport::host(int p) const { return peers_.at(static_cast<size_t>(p)).host; }

std::byte* PerPeerTransport::lent(int p, const Loan& loan) {
  Peer& of = peer(p);
  if (!of.segment)
    throw Error(ErrorKind::frame,
                "rank " + std::to_string(p) + " lends memory, but is reached by " + of.kind);
  return of.segment->lent(loan);
}

// ---- moving and waiting --------------------------------------------------------------------------------------------

bool PerPeerTransport::progress() {
  bool moved = false;
  for (LinkChannel* channel : streamed_) moved |= channel->progress();
  return moved;
}

bool PerPeerTransport::news() {
  bool any = false;
  for (LinkChannel* channel : shared_) any |= channel->news();
  return any;
}

void PerPeerTransport::sleep(Deadline until) {
  if (!waiter_) {
    bell_.sleep(until.sooner(Deadline::after(kBellSlice)), [this] { return news(); });
  } else if (shared_.empty()) {
    waiter_->wait(until);
  } else {
    while (!waiter_->poll() && !until.passed())
      if (bell_.sleep(until.sooner(Deadline::after(kMixedSlice)), [this] { return news(); })) return;
  }
}

void PerPeerTransport::ring() {
  if (!waiter_ || !shared_.empty()) bell_.poke();
  if (waiter_ && shared_.empty()) waiter_->wake();
}

// ---- control -------------------------------------------------------------------------------------------------------

bool PerPeerTransport::control_send(int p, const ControlMessage& message) {
  Peer& to = peer(p);
  const bool reachable = to.control->send(message);
  // A peer that shares memory with us sleeps on its bell and sees no socket.
  if (reachable && to.segment) to.segment->bell().poke();
  return reachable;
}

bool PerPeerTransport::control_receive(int p, ControlMessage& message) {
  return peer(p).control->receive(message);
}

bool PerPeerTransport::control_delivered(int p) { return peer(p).control->delivered(); }

PeerState PerPeerTransport::peer_state(int p) {
  Peer& of = peer(p);
  if (of.control->left()) return PeerState::left;
  if (of.control->broken()) return PeerState::lost;
  const auto broken = [](const auto& channel) { return channel->broken(); };
  const bool suspect =
      std::any_of(of.channels.begin(), of.channels.end(), broken) || (of.segment && of.segment->owner_died());
  if (!suspect) return PeerState::alive;
  const auto now = Deadline::Clock::now();
  if (of.broken_since == Deadline::Clock::time_point{}) of.broken_since = now;
  return now - of.broken_since < kGoodbyeTime ? PeerState::alive : PeerState::lost;
}

// ---- the end -------------------------------------------------------------------------------------------------------

std::vector<int> PerPeerTransport::sockets() const {
  return sockets_where([](const Peer&) { return true; });
}

// Not those of peers that share memory: inside a host what is sent has arrived, and its acknowledgement may take 40 ms.
std::vector<int> PerPeerTransport::sockets_of_streams() const {
  return sockets_where([](const Peer& p) { return !p.segment; });
}

template <class Wanted>
std::vector<int> PerPeerTransport::sockets_where(Wanted&& wanted) const {
  std::vector<int> all;
  for (const Peer& p : peers_) {
    if (!p.control || !wanted(p)) continue;
    all.push_back(p.control->socket());
    for (const auto& channel : p.channels)
      for (const int socket : channel->sockets()) all.push_back(socket);
  }
  return all;
}

bool PerPeerTransport::flush(Deadline until) {
  for (;;) {
    progress();
    bool flushed = true;
    for (Peer& p : peers_) {
      if (!p.control) continue;
      p.control->push();
      flushed = flushed && p.control->flushed();
    }
    for (LinkChannel* channel : streamed_) flushed = flushed && channel->flushed();
    if (flushed || until.passed()) return flushed;
    wait_until_writable(sockets(), until);
  }
}

void PerPeerTransport::close() {
  if (closed_) return;
  closed_ = true;
  // A forked child holds copies of the sockets; the goodbye is not its to say.
  if (::getpid() != process_) return;
  const Deadline until = Deadline::after(kLinger);
  flush(until);
  // Goodbye travels on a connection of its own; it must not overtake the last message on another.
  wait_until_delivered(sockets_of_streams(), until);
  for (Peer& p : peers_) {
    if (!p.control) continue;
    p.control->send_goodbye();
    if (p.segment) p.segment->bell().poke();
  }
  flush(until);
  finish_sending(sockets());
  wait_until_delivered(sockets_of_streams(), until);
  discard_unread(sockets());
  // The rings stay mapped, here until the destructor, because ring() of another thread may still touch the bell, and
  // there for as long as the peer wants to read.
  for (Peer& p : peers_) p.control.reset();
  for (Peer& p : peers_)
    for (auto& channel : p.channels) channel.reset();
  shared_.clear();
  streamed_.clear();
}

}  // namespace gw
