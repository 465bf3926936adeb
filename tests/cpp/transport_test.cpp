// What every transport promises, shown for each of them.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <random>

#include "transport_ranks.hpp"

using namespace gw_test;

namespace {

const std::vector<std::string> kKinds = {"inproc", "shm", "tcp"};

// Byte i of message number m: any loss, doubling or reordering shows.
std::byte pattern(size_t m, size_t i) { return static_cast<std::byte>((m * 131 + i * 7 + (i >> 8)) & 0xff); }

void send(gw::Transport& t, int peer, int lane, size_t number, size_t bytes) {
  gw::Channel& c = t.channel(peer, lane);
  std::byte* out = await(t, [&] { return c.reserve(bytes); });
  for (size_t i = 0; i < bytes; ++i) out[i] = pattern(number, i);
  c.commit(bytes);
}

// Header first, then all of it, as the executor does.
bool receive(gw::Transport& t, int peer, int lane, size_t number, size_t bytes) {
  gw::Channel& c = t.channel(peer, lane);
  await(t, [&] { return c.peek(std::min<size_t>(bytes, 64)); });
  const std::byte* in = await(t, [&] { return c.peek(bytes); });
  bool right = true;
  for (size_t i = 0; i < bytes; ++i) right = right && in[i] == pattern(number, i);
  c.consume(bytes);
  return right;
}

}  // namespace

TEST_CASE("messages of every size arrive in order and whole, around the ring's end") {
  for (const auto& kind : kKinds) {
    CAPTURE(kind);
    const size_t capacity = 65536;
    std::vector<size_t> sizes = {1, 63, 64, 65, 127, 4095, 4096, 4097, capacity / 4 - 1, capacity / 4};
    std::mt19937 random(1);
    for (int i = 0; i < 200; ++i) sizes.push_back(1 + random() % (capacity / 4));
    auto t = connect(kind, 2, capacity);
    std::atomic<int> wrong{0};
    run_ranks(2, [&](int r) {
      gw::Transport& own = *t[static_cast<size_t>(r)];
      for (int lane = 0; lane < gw::kLanes; ++lane)
        for (size_t m = 0; m < sizes.size(); ++m) {
          if (r == 0) send(own, 1, lane, m, sizes[m]);
          if (r == 1 && !receive(own, 0, lane, m, sizes[m])) ++wrong;
        }
      await(own, [&] { return own.channel(1 - r, 0).flushed(); });
    });
    CHECK(wrong == 0);
    CHECK(t[0]->counters().bytes_sent == t[1]->counters().bytes_received);
    CHECK(t[0]->kind(1) == kind);
    CHECK(t[0]->ranks_on_this_machine() == 2);
  }
}

TEST_CASE("all pairs talk at once on all lanes") {
  for (const auto& kind : kKinds)
    for (int n : {1, 2, 3, 5}) {
      CAPTURE(kind);
      CAPTURE(n);
      auto t = connect(kind, n);
      std::atomic<int> wrong{0};
      run_ranks(n, [&](int r) {
        gw::Transport& own = *t[static_cast<size_t>(r)];
        for (size_t m = 0; m < 50; ++m)
          for (int lane = 0; lane < gw::kLanes; ++lane) {
            const size_t bytes = 64 + 97 * m;
            for (int p = 0; p < n; ++p)
              if (p != r) send(own, p, lane, m, bytes);
            for (int p = 0; p < n; ++p)
              if (p != r && !receive(own, p, lane, m, bytes)) ++wrong;
          }
      });
      CHECK(wrong == 0);
    }
}

TEST_CASE("a channel holds what it says and no more") {
  for (const auto& kind : {"inproc", "shm"}) {
    CAPTURE(kind);
    auto t = connect(kind, 2);
    gw::Channel& c = t[0]->channel(1, 0);
    size_t messages = 0;
    while (c.reserve(1024)) {
      CHECK(reinterpret_cast<uintptr_t>(c.reserve(1024)) % 64 == 0);
      c.commit(1024);
      ++messages;
    }
    CHECK(messages == c.capacity() / 1024);
    CHECK(c.reserve(c.capacity() + 1) == nullptr);
    CHECK(t[1]->channel(0, 0).peek(1024));
    t[1]->channel(0, 0).consume(1024);
    CHECK(c.reserve(1024));
    CHECK(!c.reserve(1088));
  }
}

TEST_CASE("a full TCP channel refuses, and goes on when it is emptied") {
  auto t = connect("tcp", 2, 65536, 3);
  gw::Channel& c = t[0]->channel(1, 0);
  size_t sent = 0, received = 0;
  while (c.reserve(8192)) {
    c.commit(8192);
    REQUIRE(++sent < 100000);
  }
  CHECK(!c.flushed());
  while (received < sent) {
    await(*t[1], [&] {
      t[0]->progress();
      return t[1]->channel(0, 0).peek(8192);
    });
    t[1]->channel(0, 0).consume(8192);
    ++received;
  }
  CHECK(c.flushed());
  CHECK(t[0]->counters().socket_bytes_sent == sent * 8192);
}

TEST_CASE("gathered messages arrive whole, also those of which the kernel took a part") {
  auto t = connect("tcp", 2, 65536, 1);
  gw::Channel& c = t[0]->channel(1, 0);
  REQUIRE(c.gathers());
  const size_t bytes = 16001, head = 64;
  std::vector<std::byte> rest(bytes - head);
  size_t sent = 0;
  for (; std::byte* out = c.reserve(bytes); ++sent) {
    for (size_t i = 0; i < head; ++i) out[i] = pattern(sent, i);
    for (size_t i = head; i < bytes; ++i) rest[i - head] = pattern(sent, i);
    c.commit(head, rest.data(), rest.size());
    std::ranges::fill(rest, std::byte{0xff});  // the caller's again
  }
  REQUIRE_FALSE(c.flushed());
  size_t wrong = 0;
  run_ranks(2, [&](int r) {
    if (r == 0) await(*t[0], [&] { return c.flushed(); });
    for (size_t m = 0; r == 1 && m < sent; ++m) wrong += !receive(*t[1], 0, 0, m, bytes);
  });
  CHECK(wrong == 0);
  CHECK(t[0]->counters().bytes_sent == sent * bytes);
}

TEST_CASE("no wake-up is lost when both sides sleep at once") {
  for (const auto& kind : kKinds) {
    CAPTURE(kind);
    auto t = connect(kind, 2);
    constexpr size_t kRounds = 20000;
    // await() sleeps for up to 20 s: a single lost wake-up fails the test. Shared memory sleeps in slices, which could
    // hide one, so the time is checked too.
    const auto start = std::chrono::steady_clock::now();
    run_ranks(2, [&](int r) {
      gw::Transport& own = *t[static_cast<size_t>(r)];
      for (size_t m = 0; m < kRounds; ++m) {
        if (r == 0) send(own, 1, 0, m, 8);
        receive(own, 1 - r, 0, m, 8);
        if (r == 1) send(own, 0, 0, m, 8);
      }
    });
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(15));
  }
}

TEST_CASE("a writer that waits for room is woken") {
  for (const auto& kind : kKinds) {
    CAPTURE(kind);
    auto t = connect(kind, 2);
    std::atomic<int> wrong{0};
    run_ranks(2, [&](int r) {
      gw::Transport& own = *t[static_cast<size_t>(r)];
      for (size_t m = 0; m < 2000; ++m) {
        if (r == 0) send(own, 1, 0, m, 16000);
        if (r == 1 && !receive(own, 0, 0, m, 16000)) ++wrong;
      }
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("ring() ends a sleep of another thread, also one that has not begun") {
  for (const auto& kind : kKinds) {
    CAPTURE(kind);
    auto t = connect(kind, 2);
    const auto start = std::chrono::steady_clock::now();
    std::atomic<size_t> queued{0}, done{0};
    std::thread caller([&] {
      for (size_t i = 1; i <= 1000; ++i) {
        queued = i;
        t[0]->ring();
        while (done < i) std::this_thread::yield();
      }
    });
    while (done < 1000) {
      if (queued > done)
        done = queued.load();
      else
        t[0]->sleep(gw::Deadline::after_seconds(10));
    }
    caller.join();
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(8));
  }
}

TEST_CASE("a message is answered where it lies, and its memory waits for that") {
  for (const std::string kind : {"inproc", "shm"}) {
    CAPTURE(kind);
    const size_t capacity = 65536, bytes = capacity / 4 - 64;
    auto t = connect(kind, 2, capacity);
    CHECK(t[0]->shares_memory(1));
    run_ranks(2, [&](int r) {
      gw::Transport& own = *t[static_cast<size_t>(r)];
      gw::Channel& c = own.channel(1 - r, 0);
      if (r == 1) {
        for (size_t m = 0; m < 100; ++m) {
          await(own, [&] { return c.peek(bytes); });
          std::byte* slot = c.answer_slot();
          for (size_t i = 0; i < bytes; ++i) slot[i] ^= std::byte{0xff};
          c.answer(bytes);
        }
        return;
      }
      size_t asked = 0, answered = 0, wrong = 0, most = 0;
      while (answered < 100) {
        while (asked < 100) {
          std::byte* out = c.reserve(bytes);
          if (!out) break;
          for (size_t i = 0; i < bytes; ++i) out[i] = pattern(asked, i);
          c.ask(bytes);
          ++asked;
        }
        most = std::max(most, asked - answered);
        const std::byte* in = await(own, [&] { return c.peek_answer(bytes); });
        for (size_t i = 0; i < bytes; ++i) wrong += in[i] != (pattern(answered, i) ^ std::byte{0xff});
        c.consume_answer(bytes);
        ++answered;
      }
      CHECK(wrong == 0);
      CHECK(most == 4);  // as many as the ring holds, answered or not
    });
    send(*t[0], 1, 0, 7, 100);  // plain messages go on behind them
    CHECK(receive(*t[1], 0, 0, 7, 100));
  }
}
