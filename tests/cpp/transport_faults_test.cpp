// Delay, drop and close of in-process ranks; goodbye and death on every transport; hostile ring positions.
#include <doctest/doctest.h>

#include <cstring>

#include "transport/mirror_ring.hpp"
#include "transport_ranks.hpp"

using namespace gw_test;
using Clock = std::chrono::steady_clock;

namespace {

const std::vector<std::string> kKinds = {"inproc", "shm", "tcp"};

void send_int(gw::Transport& t, int peer, int value) {
  gw::Channel& c = t.channel(peer, 0);
  std::memcpy(await(t, [&] { return c.reserve(sizeof(value)); }), &value, sizeof(value));
  c.commit(sizeof(value));
}

int receive_int(gw::Transport& t, int peer) {
  gw::Channel& c = t.channel(peer, 0);
  int value;
  std::memcpy(&value, await(t, [&] { return c.peek(sizeof(value)); }), sizeof(value));
  c.consume(sizeof(value));
  return value;
}

gw::ControlMessage notice(int value) {
  gw::ControlMessage m;
  std::memcpy(m.bytes.data(), &value, sizeof(value));
  return m;
}

int receive_notice(gw::Transport& t, int peer) {
  gw::ControlMessage m;
  await(t, [&] { return t.control_receive(peer, m); });
  int value;
  std::memcpy(&value, m.bytes.data(), sizeof(value));
  return value;
}

gw::PeerState await_change(gw::Transport& t, int peer) {
  gw::ControlMessage m;
  await(t, [&] { return t.control_receive(peer, m), t.peer_state(peer) != gw::PeerState::alive; });
  return t.peer_state(peer);
}

}  // namespace

TEST_CASE("a delayed link delivers late and in order, and sleep() wakes for it") {
  gw::InprocHub hub(2, 65536);
  auto a = hub.connect(0), b = hub.connect(1);
  hub.delay(0, 1, 0.05);
  const auto start = Clock::now();
  for (int i = 0; i < 10; ++i) send_int(*a, 1, i);
  hub.delay(0, 1, 0.0);
  send_int(*a, 1, 10);  // no overtaking
  a->control_send(1, notice(5));
  CHECK(b->channel(0, 0).peek(4) == nullptr);
  for (int i = 0; i <= 10; ++i) CHECK(receive_int(*b, 0) == i);
  const auto took = Clock::now() - start;
  CHECK(took >= std::chrono::milliseconds(50));
  CHECK(took < std::chrono::milliseconds(500));
  CHECK(receive_notice(*b, 0) == 5);
  send_int(*b, 0, 3);  // the other direction is not affected
  CHECK(a->channel(1, 0).peek(4) != nullptr);
}

TEST_CASE("a message that is delayed while the receiver sleeps ends the sleep when it is due") {
  gw::InprocHub hub(2, 65536);
  auto a = hub.connect(0), b = hub.connect(1);
  hub.delay(0, 1, 0.02);
  for (int i = 0; i < 20; ++i) {
    std::thread sender([&] { send_int(*a, 1, i); });
    CHECK(receive_int(*b, 0) == i);
    sender.join();
  }
}

TEST_CASE("a dropped link swallows everything and tells nobody") {
  gw::InprocHub hub(2, 65536);
  auto a = hub.connect(0), b = hub.connect(1);
  send_int(*a, 1, 1);
  hub.drop(0, 1);
  for (int i = 0; i < 10000; ++i) send_int(*a, 1, i);  // far more than the ring holds
  CHECK(a->channel(1, 0).flushed());
  CHECK(a->control_send(1, notice(1)));
  a->close();
  CHECK(receive_int(*b, 0) == 1);
  gw::ControlMessage m;
  CHECK(!b->control_receive(0, m));
  CHECK(b->peer_state(0) == gw::PeerState::alive);
  CHECK(b->channel(0, 0).peek(4) == nullptr);
}

TEST_CASE("a closed rank is lost to its peers and moves nothing any more") {
  gw::InprocHub hub(3, 65536);
  auto a = hub.connect(0), b = hub.connect(1), c = hub.connect(2);
  send_int(*a, 1, 4);
  b->control_send(0, notice(1));
  hub.close(0);
  CHECK(a->channel(1, 0).reserve(4) == nullptr);
  CHECK(a->channel(1, 0).peek(4) == nullptr);
  gw::ControlMessage m;
  CHECK(!a->control_receive(1, m));
  CHECK(!a->control_send(1, notice(2)));
  CHECK(await_change(*b, 0) == gw::PeerState::lost);
  CHECK(await_change(*c, 0) == gw::PeerState::lost);
  CHECK(receive_int(*b, 0) == 4);  // what it sent before is still there
  CHECK(b->peer_state(2) == gw::PeerState::alive);
}

TEST_CASE("the hub refuses ranks it does not have") {
  gw::InprocHub hub(2, 65536);
  auto a = hub.connect(0);
  CHECK_THROWS_AS(hub.connect(0), gw::Error);
  CHECK_THROWS_AS(hub.connect(2), gw::Error);
  CHECK_THROWS_AS(hub.delay(0, 5, 1), gw::Error);
  CHECK_THROWS_AS(hub.delay(0, 1, -1), gw::Error);
}

TEST_CASE("notices arrive in order, and goodbye after all of them") {
  for (const auto& kind : kKinds) {
    CAPTURE(kind);
    auto t = connect(kind, 2);
    for (int i = 0; i < 20; ++i) CHECK(t[0]->control_send(1, notice(i)));
    t[0]->close();
    t[0]->close();
    CHECK(t[1]->peer_state(0) == gw::PeerState::alive);
    for (int i = 0; i < 20; ++i) CHECK(receive_notice(*t[1], 0) == i);
    CHECK(await_change(*t[1], 0) == gw::PeerState::left);
    CHECK(!t[1]->control_send(0, notice(1)));
  }
}

TEST_CASE("a transport that goes without goodbye is lost, not left") {
  for (const auto& kind : kKinds) {
    CAPTURE(kind);
    auto t = connect(kind, 2);
    t[0].reset();
    CHECK(await_change(*t[1], 0) == gw::PeerState::lost);
    CHECK(!t[1]->control_send(0, notice(1)));
    gw::Channel& c = t[1]->channel(0, 0);
    // sending into the void neither raises nor blocks, and ends up flushed
    for (int i = 0; i < 1000; ++i)
      if (c.reserve(1000)) c.commit(1000);
    CHECK(c.flushed());
  }
}

TEST_CASE("what was sent before close() arrives, though nobody read it until then") {
  for (const auto& kind : kKinds) {
    CAPTURE(kind);
    auto t = connect(kind, 2, size_t{1} << 20);
    constexpr int kMessages = 16;  // of 60000 bytes: more than one socket buffer
    for (int m = 0; m < kMessages; ++m) {
      std::byte* out = t[0]->channel(1, 0).reserve(60000);
      REQUIRE(out);
      std::memset(out, m, 60000);
      t[0]->channel(1, 0).commit(60000);
    }
    // the other direction has unread bytes, which would turn a careless close into a reset
    send_int(*t[1], 0, 1);
    std::thread closer([&] { t[0]->close(); });
    for (int m = 0; m < kMessages; ++m) {
      const std::byte* in = await(*t[1], [&] { return t[1]->channel(0, 0).peek(60000); });
      CHECK(in[0] == static_cast<std::byte>(m));
      CHECK(in[59999] == static_cast<std::byte>(m));
      t[1]->channel(0, 0).consume(60000);
    }
    closer.join();
    CHECK(await_change(*t[1], 0) == gw::PeerState::left);
  }
}

TEST_CASE("close() is quick and does not wait for a peer that does nothing") {
  for (const auto& kind : kKinds) {
    CAPTURE(kind);
    auto t = connect(kind, 3);
    const auto start = Clock::now();
    for (auto& each : t) each->close();
    CHECK(Clock::now() - start < std::chrono::milliseconds(500));
  }
}

TEST_CASE("hostile ring positions never lead outside the ring") {
  const size_t bytes = gw::mirror_bytes(1);
  gw::MirrorMap map = gw::MirrorMap::anonymous(bytes);
  for (uint64_t tail : {bytes + 1, bytes + 64, size_t{1} << 40, ~size_t{0}, ~size_t{0} - 63}) {
    gw::RingControl control;
    gw::RingReader reader(&control, map.data(), bytes);
    control.tail = tail;
    CHECK(reader.peek(1) == nullptr);
    CHECK(reader.peek(bytes) == nullptr);
    reader.news();
    CHECK(reader.peek(1) == nullptr);
    control.tail = 64;  // an honest position works again
    CHECK(reader.peek(64) == map.data());
    CHECK(reader.peek(65) == nullptr);
  }
  for (uint64_t head : {uint64_t{64}, uint64_t{1} << 40, ~uint64_t{0}}) {
    gw::RingControl control;
    gw::RingWriter writer(&control, map.data(), bytes);
    control.head = head;
    CHECK(writer.reserve(bytes + 1) == nullptr);
    for (int i = 0; i < 1000; ++i) {
      const std::byte* at = writer.reserve(100);
      if (!at) break;
      CHECK(at >= map.data());
      CHECK(at < map.data() + bytes);
      writer.advance(100);
      writer.publish();
    }
  }
}

TEST_CASE("hostile positions never make an answer of what was not asked") {
  const size_t bytes = gw::mirror_bytes(1);
  gw::MirrorMap map = gw::MirrorMap::anonymous(bytes);
  gw::RingControl control;
  gw::RingWriter writer(&control, map.data(), bytes);
  for (int i = 0; i < 2; ++i) {
    REQUIRE(writer.reserve(100) != nullptr);
    writer.advance_ask(100);
    writer.publish();
  }
  for (uint64_t head : {uint64_t{257}, uint64_t{1} << 40, ~uint64_t{0}, ~uint64_t{0} - 127}) {
    control.head = head;
    CHECK(writer.peek_answer(100) == nullptr);
  }
  control.head = 128;  // an honest position works again
  CHECK(writer.peek_answer(100) == map.data());
  writer.consume_answer(100);
  CHECK(writer.peek_answer(100) == nullptr);
}

TEST_CASE("answers of an in-process link are delayed and dropped like messages") {
  gw::InprocHub hub(2, 65536);
  auto a = hub.connect(0), b = hub.connect(1);
  const auto ask = [&] {
    gw::Channel &out = a->channel(1, 0), &in = b->channel(0, 0);
    REQUIRE(out.reserve(4) != nullptr);
    out.ask(4);
    REQUIRE(in.peek(4) != nullptr);
    in.answer(4);
  };
  hub.delay(1, 0, 0.02);
  const auto start = Clock::now();
  ask();
  CHECK(a->channel(1, 0).peek_answer(4) == nullptr);
  await(*a, [&] { return a->channel(1, 0).peek_answer(4); });
  a->channel(1, 0).consume_answer(4);
  CHECK(Clock::now() - start >= std::chrono::milliseconds(20));
  hub.drop(1, 0);
  ask();
  a->sleep(gw::Deadline::after_seconds(0.05));
  CHECK(a->channel(1, 0).peek_answer(4) == nullptr);
}
