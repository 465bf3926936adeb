// A channel made of two mirror rings in memory that both ranks have mapped: the receiver reads the sender's bytes in
// place. One write, one read, no copy between. An answer is written where the message lay, so that its cache lines stay
// with whoever writes them next: a round trip moves each line twice, where two rings would move it four times.
#pragma once
#include "transport/counters.hpp"
#include "transport/doorbell.hpp"
#include "transport/link_channel.hpp"
#include "transport/mirror_ring.hpp"

namespace gw {

class RingChannel final : public LinkChannel {
 public:
  RingChannel(RingWriter out, RingReader in, Doorbell& peer_bell, AtomicCounters& counters)
      : out_(out), in_(in), peer_bell_(peer_bell), counters_(counters) {}

  std::byte* reserve(size_t bytes) override { return out_.reserve(bytes); }
  void commit(size_t bytes) override {
    out_.advance(bytes);
    published(bytes);
  }
  void ask(size_t bytes) override {
    out_.advance_ask(bytes);
    published(bytes);
  }
  const std::byte* peek(size_t bytes) override { return in_.peek(bytes); }
  void consume(size_t bytes) override {
    if (in_.consume(bytes)) peer_bell_.ring_if_sleeping();
    AtomicCounters::add(counters_.bytes_received, bytes);
  }
  std::byte* answer_slot() override { return in_.at_head(); }
  void answer(size_t bytes) override {
    in_.consume(bytes);
    peer_bell_.ring_if_sleeping();
    AtomicCounters::add(counters_.bytes_received, bytes);
    AtomicCounters::add(counters_.bytes_sent, bytes);
  }
  const std::byte* peek_answer(size_t bytes) override { return out_.peek_answer(bytes); }
  void consume_answer(size_t bytes) override {
    out_.consume_answer(bytes);
    AtomicCounters::add(counters_.bytes_received, bytes);
  }
  bool flushed() const override { return true; }
  bool taken() override { return out_.taken(); }
  size_t capacity() const override { return out_.capacity(); }
  bool news() override {
    const bool in = in_.news();
    return out_.news() || in;
  }

 private:
  void published(size_t bytes) {
    out_.publish();
    peer_bell_.ring_if_sleeping();
    AtomicCounters::add(counters_.bytes_sent, bytes);
  }
  RingWriter out_;
  RingReader in_;
  Doorbell& peer_bell_;
  AtomicCounters& counters_;
};

}  // namespace gw
