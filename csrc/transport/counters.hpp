// Byte counts of one rank: written by the thread that drives the transport, read by anyone.
#pragma once
#include <atomic>

#include "transport/transport.hpp"

namespace gw {

class AtomicCounters {
 public:
  using Count = std::atomic<uint64_t>;
  Count bytes_sent{0}, bytes_received{0}, socket_bytes_sent{0}, socket_bytes_received{0};

  // Not fetch_add: there is one writer, and a locked instruction per message would be felt.
  static void add(Count& count, uint64_t n) {
    count.store(count.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  Counters read() const {
    constexpr auto kRelaxed = std::memory_order_relaxed;
    return {bytes_sent.load(kRelaxed), bytes_received.load(kRelaxed), socket_bytes_sent.load(kRelaxed),
            socket_bytes_received.load(kRelaxed)};
  }
};

}  // namespace gw
