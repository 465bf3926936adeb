// The transport of a job: to each peer the best kind that both ends can use, and one control connection.
#pragma once
#include <sys/types.h>

#include <memory>
#include <vector>

#include "transport/control_link.hpp"
#include "transport/pair.hpp"
#include "transport/socket_waiter.hpp"

namespace gw {

class PerPeerTransport final : public Transport {
 public:
  // The counters come first because the pairs already hold on to them. Every pair is connected; pairs[rank] is null.
  PerPeerTransport(std::unique_ptr<AtomicCounters> counters, const Blob& mine,
                   std::unique_ptr<Segment> segment, std::vector<std::unique_ptr<Pair>>& pairs);
  ~PerPeerTransport() override = default;  // without close(): to the others it looks like a crash

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(peers_.size()); }
  Channel& channel(int peer, int lane) override;
  std::string kind(int peer) const override;
  std::string host(int peer) const override;
  int ranks_on_this_machine() const override { return ranks_on_this_machine_; }
  bool shares_memory(int peer) const override { return kind(peer) == "shm"; }
  std::byte* lent(int peer, const Loan& loan) override;
  std::byte* board(int p) override { return peers_.at(static_cast<size_t>(p)).board; }
  int host_number(int p) const override { return peers_.at(static_cast<size_t>(p)).host_number; }
  int machine_number(int p) const override { return peers_.at(static_cast<size_t>(p)).machine_number; }

  bool progress() override;
  void sleep(Deadline until) override;
  void ring() override;

  bool control_send(int peer, const ControlMessage& message) override;
  bool control_receive(int peer, ControlMessage& message) override;
  bool control_delivered(int peer) override;
  PeerState peer_state(int peer) override;
  void close() override;

  Counters counters() const override { return counters_->read(); }
  size_t staging_bytes() const override { return staging_bytes_; }
  size_t channel_bytes() const override { return channel_bytes_; }

 private:
  struct Peer {
    std::string kind, host;
    int host_number = 0, machine_number = 0;
    std::unique_ptr<PeerSegment> segment;
    std::byte* board = nullptr;
    std::unique_ptr<ControlLink> control;
    std::array<std::unique_ptr<LinkChannel>, kLanes> channels;
    Deadline::Clock::time_point broken_since{};  // first suspicion, see peer_state()
  };
  Peer& peer(int p);
  bool news();
  template <class Wanted>
  std::vector<int> sockets_where(Wanted&& wanted) const;
  std::vector<int> sockets() const;
  std::vector<int> sockets_of_streams() const;
  bool flush(Deadline until);

  const int rank_;
  const pid_t process_;
  int ranks_on_this_machine_ = 1;
  std::unique_ptr<AtomicCounters> counters_;
  std::unique_ptr<Segment> segment_;    // null: no shared memory
  std::unique_ptr<Doorbell> own_bell_;  // used if there is no segment
  Doorbell& bell_;
  std::vector<Peer> peers_;
  std::vector<LinkChannel*> shared_, streamed_;  // channels that ring the bell; channels with sockets
  std::unique_ptr<SocketWaiter> waiter_;         // null if every peer rings the bell
  size_t staging_bytes_ = 0, channel_bytes_ = 0;
  bool closed_ = false;
};

}  // namespace gw
