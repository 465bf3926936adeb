// Ranks as threads of one process: the transport of tests and of several ranks in one interpreter. The same rings and
// doorbells as shared memory, plus faults on demand.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <string>

#include "base/error.hpp"
#include "transport/counters.hpp"
#include "transport/doorbell.hpp"
#include "transport/endpoint.hpp"
#include "transport/host_identity.hpp"
#include "transport/inproc_wire.hpp"
#include "transport/peer_arena.hpp"

namespace gw {

namespace {

struct Hub {
  struct Rank {
    Doorbell bell;
    std::atomic<bool> killed{false};
    std::atomic<bool> connected{false};
    MirrorMap board;
  };

  Hub(int n, size_t bytes)
      : size(n),
        channel_bytes(mirror_bytes(bytes)),
        ranks(static_cast<size_t>(n)),
        links(static_cast<size_t>(n) * static_cast<size_t>(n)) {
    if (n > 2)
      for (Rank& rank : ranks) rank.board = MirrorMap::anonymous(2 * channel_bytes);
  }

  void check(int rank, const char* what) const {
    if (rank < 0 || rank >= size)
      fail_argument(std::string(what) + ": expected a rank from 0 to " + std::to_string(size - 1) + ", got " +
                    std::to_string(rank));
  }
  Rank& rank(int r) { return ranks[static_cast<size_t>(r)]; }
  FaultLink& link(int src, int dst) {
    return links[static_cast<size_t>(src) * static_cast<size_t>(size) + static_cast<size_t>(dst)];
  }
  // Made on first use: most jobs touch few of the size^2 * lanes rings.
  InprocWire& wire(int src, int dst, int lane) {
    std::lock_guard lock(mutex);
    auto& slot = wires[{src, dst, lane}];
    if (!slot) slot = std::make_unique<InprocWire>(link(src, dst), link(dst, src), channel_bytes);
    return *slot;
  }
  void post_to_all(int src, FaultLink::Event event) {
    for (int peer = 0; peer < size; ++peer) {
      if (peer == src) continue;
      link(src, peer).post(event);
      rank(peer).bell.poke();
    }
  }

  const int size;
  const size_t channel_bytes;
  std::vector<Rank> ranks;
  std::vector<FaultLink> links;
  std::mutex mutex;
  std::map<std::array<int, 3>, std::unique_ptr<InprocWire>> wires;
};

class InprocChannel final : public Channel {
 public:
  InprocChannel(InprocWire& out, InprocWire& in, Hub::Rank& self, Hub::Rank& peer, AtomicCounters& counters)
      : out_(out), in_(in), self_(self), peer_(peer), counters_(counters) {}

  std::byte* reserve(size_t bytes) override { return dead() ? nullptr : out_.reserve(bytes); }
  void commit(size_t bytes) override {
    if (dead()) return;
    if (out_.commit(bytes))
      peer_.bell.ring_if_sleeping();
    else
      peer_.bell.poke();  // leaves no trace in the ring yet, but the peer has to set its clock
    AtomicCounters::add(counters_.bytes_sent, bytes);
  }
  const std::byte* peek(size_t bytes) override { return dead() ? nullptr : in_.peek(bytes); }
  void consume(size_t bytes) override {
    if (dead()) return;
    if (in_.consume(bytes)) peer_.bell.ring_if_sleeping();
    AtomicCounters::add(counters_.bytes_received, bytes);
  }
  bool flushed() const override { return true; }
  bool taken() override { return dead() || out_.taken(); }
  void ask(size_t bytes) override {
    if (dead()) return;
    if (out_.ask(bytes))
      peer_.bell.ring_if_sleeping();
    else
      peer_.bell.poke();
    AtomicCounters::add(counters_.bytes_sent, bytes);
  }
  std::byte* answer_slot() override { return in_.answer_slot(); }
  void answer(size_t bytes) override {
    if (dead()) return;
    if (in_.answer(bytes))
      peer_.bell.ring_if_sleeping();
    else
      peer_.bell.poke();
    AtomicCounters::add(counters_.bytes_received, bytes);
    AtomicCounters::add(counters_.bytes_sent, bytes);
  }
  const std::byte* peek_answer(size_t bytes) override { return dead() ? nullptr : out_.peek_answer(bytes); }
  void consume_answer(size_t bytes) override {
    if (dead()) return;
    out_.consume_answer(bytes);
    AtomicCounters::add(counters_.bytes_received, bytes);
  }
  size_t capacity() const override { return out_.bytes(); }

  bool news() {
    const bool in = in_.message_news();
    return out_.room_news() || in;
  }
  FaultLink::Clock::time_point next_due() { return std::min(in_.next_due(), out_.next_answer_due()); }

 private:
  bool dead() const { return self_.killed.load(std::memory_order_relaxed); }

  InprocWire &out_, &in_;
  Hub::Rank &self_, &peer_;
  AtomicCounters& counters_;
};

class InprocTransport final : public Transport {
 public:
  InprocTransport(std::shared_ptr<Hub> hub, int rank)
      : hub_(std::move(hub)),
        rank_(rank),
        self_(hub_->rank(rank)),
        host_(host_name()),
        channels_(static_cast<size_t>(hub_->size) * kLanes),
        arenas_(static_cast<size_t>(hub_->size)),
        states_(static_cast<size_t>(hub_->size), PeerState::alive) {}
  // Destroyed without close(): to the others it looks like a crash.
  ~InprocTransport() override {
    if (!closed_ && !killed()) hub_->post_to_all(rank_, FaultLink::Event::lost);
  }

  int rank() const override { return rank_; }
  int size() const override { return hub_->size; }
  Channel& channel(int peer, int lane) override {
    check_internal(peer >= 0 && peer < hub_->size && peer != rank_ && lane >= 0 && lane < kLanes,
                   "no such channel");
    auto& slot = channels_[static_cast<size_t>(peer) * kLanes + static_cast<size_t>(lane)];
    if (!slot)
      slot = std::make_unique<InprocChannel>(hub_->wire(rank_, peer, lane), hub_->wire(peer, rank_, lane),
                                             self_, hub_->rank(peer), counters_);
    return *slot;
  }
  std::string kind(int) const override { return "inproc"; }
  std::string host(int) const override { return host_; }
  int ranks_on_this_machine() const override { return hub_->size; }
  bool shares_memory(int) const override { return true; }
  std::byte* lent(int peer, const Loan& loan) override {
    // mapped once more, as by a process of its own: so it can be withdrawn
    PeerArena& arena = arenas_[static_cast<size_t>(peer)];
    std::byte* at = arena.find(loan);
    return at ? at : arena.map(loan, ::getpid());
  }
  std::byte* board(int rank) override { return hub_->rank(rank).board.data(); }
  int host_number(int) const override { return 0; }
  int machine_number(int) const override { return 0; }

  bool progress() override { return false; }

  void sleep(Deadline until) override {
    // What a fault holds back becomes visible by the clock alone: nobody rings for it.
    auto due = FaultLink::Clock::time_point::max();
    for (auto& channel : channels_)
      if (channel) due = std::min(due, channel->next_due());
    for (int peer = 0; peer < hub_->size; ++peer) due = std::min(due, hub_->link(peer, rank_).next_due());
    const auto wait = std::max(due - Deadline::Clock::now(), Deadline::Duration::zero());
    self_.bell.sleep(until.sooner(Deadline::after(wait)), [&] {
      bool news = false;
      for (auto& channel : channels_)
        if (channel) news |= channel->news();
      return news;
    });
  }
  void ring() override { self_.bell.poke(); }

  bool control_send(int peer, const ControlMessage& message) override {
    if (killed() || peer_state(peer) != PeerState::alive) return false;
    hub_->link(rank_, peer).post(FaultLink::Event::notice, message);
    hub_->rank(peer).bell.poke();
    return true;
  }
  bool control_receive(int peer, ControlMessage& message) override {
    return !killed() && hub_->link(peer, rank_).receive(message, states_[static_cast<size_t>(peer)]);
  }
  PeerState peer_state(int peer) override { return states_[static_cast<size_t>(peer)]; }

  void close() override {
    if (closed_) return;
    closed_ = true;
    if (!killed()) hub_->post_to_all(rank_, FaultLink::Event::left);
  }
  Counters counters() const override { return counters_.read(); }
  size_t staging_bytes() const override {
    return static_cast<size_t>(hub_->size - 1) * kLanes * hub_->channel_bytes + self_.board.bytes();
  }
  size_t channel_bytes() const override { return hub_->channel_bytes; }

 private:
  bool killed() const { return self_.killed.load(std::memory_order_relaxed); }

  std::shared_ptr<Hub> hub_;
  const int rank_;
  Hub::Rank& self_;
  const std::string host_;
  std::vector<std::unique_ptr<InprocChannel>> channels_;
  std::vector<PeerArena> arenas_;
  std::vector<PeerState> states_;
  AtomicCounters counters_;
  bool closed_ = false;
};

}  // namespace

struct InprocHub::Impl : Hub {
  using Hub::Hub;
};

InprocHub::InprocHub(int size, size_t channel_bytes) {
  if (size < 1) fail_argument("InprocHub: expected a size of at least 1, got " + std::to_string(size));
  if (channel_bytes < 4096)
    fail_argument("InprocHub: expected channel_bytes of at least 4096, got " + std::to_string(channel_bytes));
  impl_ = std::make_shared<Impl>(size, channel_bytes);
}
InprocHub::~InprocHub() = default;

std::unique_ptr<Transport> InprocHub::connect(int rank) {
  impl_->check(rank, "connect");
  if (impl_->rank(rank).connected.exchange(true))
    fail_argument("connect: rank " + std::to_string(rank) + " is connected already");
  return std::make_unique<InprocTransport>(impl_, rank);
}

void InprocHub::delay(int src, int dst, double seconds) {
  impl_->check(src, "delay");
  impl_->check(dst, "delay");
  if (!(seconds >= 0 && seconds < 1e6))
    fail_argument("delay: expected seconds from 0 to 1e6, got " + std::to_string(seconds));
  impl_->link(src, dst).delay(
      std::chrono::duration_cast<FaultLink::Clock::duration>(std::chrono::duration<double>(seconds)));
}

void InprocHub::drop(int src, int dst) {
  impl_->check(src, "drop");
  impl_->check(dst, "drop");
  impl_->link(src, dst).drop();
}

void InprocHub::close(int rank) {
  impl_->check(rank, "close");
  if (impl_->rank(rank).killed.exchange(true)) return;
  impl_->post_to_all(rank, FaultLink::Event::lost);
  impl_->rank(rank).bell.poke();
}

}  // namespace gw
