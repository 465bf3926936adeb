// The slow path of every wait: reads what peers say out of band, sees who is gone, and enforces deadlines. A
// deadline error names a culprit: shortly before the deadline all peers are asked whether they are there and whom they
// wait for; whoever does not answer, first along the chain of waiting, is named. See FAULTS.md.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "comm/notice.hpp"
#include "comm/work.hpp"
#include "transport/transport.hpp"

namespace gw {

class Watchdog {
 public:
  Watchdog(Transport& transport, uint32_t epoch);

  // Throws the Error that ends the communicator: aborted by a peer, a lost peer, or a deadline of `active` passed.
  void check(std::span<Work* const> active);
  // Tells every peer why this rank gives up; best effort, once.
  void announce(const Error& error);

 private:
  void read_notices(std::span<Work* const> active);
  void check_peers(std::span<Work* const> active);
  void check_deadlines(std::span<Work* const> active);
  void ask_everyone();
  [[noreturn]] void time_out(const Work& work);
  int culprit(const std::vector<int>& waiting_for, bool by_gpu) const;
  void send(int peer, Notice notice);
  ErrorContext context(const Work& work, int peer) const;

  struct Answer {
    uint32_t nonce = 0;
    uint64_t seq = 0;
    int waiting_for = -1;
  };
  Transport& transport_;
  uint32_t epoch_;
  uint32_t nonce_ = 0;                         // of the question asked last
  std::pair<int, uint64_t> asked_for_{-1, 0};  // (stream, seq)
  std::vector<Answer> answers_;
  bool announced_ = false;
};

}  // namespace gw
