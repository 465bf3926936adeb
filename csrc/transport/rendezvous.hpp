// Connects this rank with all others. Of two ranks the lower accepts and the higher connects: one control connection
// per pair, and as many data connections as the transport wants that both can use. One loop serves everything, so no
// silent or hostile connection holds up another.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/deadline.hpp"
#include "transport/handshake.hpp"
#include "transport/pair.hpp"

namespace gw {

class Rendezvous {
 public:
  // pairs[p] is null for this rank itself. The listener must be non-blocking.
  Rendezvous(const Blob& mine, std::string secret, std::vector<std::unique_ptr<Pair>>& pairs, int listener);
  // `idle` (may be empty) is called between waits of at most 100 ms.
  // Fills kind, control and sockets of every pair, or throws Error(rendezvous) naming the ranks that are missing.
  void run(Deadline deadline, const std::function<void()>& idle);

 private:
  using Clock = Deadline::Clock;
  // Connected by someone; nothing is known about it until its hello is complete.
  struct Incoming {
    FileDescriptor socket;
    Clock::time_point until;
    size_t got = 0;
    Hello hello{};
  };
  struct Outgoing {
    enum class State { waiting_to_retry, connecting, waiting_for_reply, done };
    int peer;
    uint32_t lane, socket_index;
    State state = State::waiting_to_retry;
    Clock::time_point retry_at{};
    Clock::duration pause = std::chrono::milliseconds(5);
    size_t tries = 0;           // goes through the peer's addresses
    Clock::time_point until{};  // when to try its next one; of no account if it has but one
    std::string address{};
    FileDescriptor socket{};
    size_t got = 0;
    Hello reply{};
  };

  void wait(Deadline deadline);
  void accept_all();
  bool serve(Incoming& connection);  // false: done with it
  void welcome(Incoming& connection);
  void serve(Outgoing& connection);
  void start(Outgoing& connection);
  void speak(Outgoing& connection);
  void finish(Outgoing& connection);
  void retry(Outgoing& connection, const std::string& problem);
  void agree(Pair& pair, uint32_t their_kinds);
  FileDescriptor* slot(Pair& pair, uint32_t lane, uint32_t socket);
  bool complete(const Pair& pair) const;
  [[noreturn]] void fail_missing() const;

  const Blob& mine_;
  Handshake handshake_;
  std::vector<std::unique_ptr<Pair>>& pairs_;
  int listener_;
  std::vector<Incoming> incoming_;
  std::vector<Outgoing> outgoing_;
  std::vector<std::string> problems_;  // the latest, by peer
};

}  // namespace gw
