// Ranks as threads of one process, over inproc and over real endpoints (shm, TCP). Small and quick: this is what runs
// under AddressSanitizer and ThreadSanitizer. The full grid of shapes is in tests/contract.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <functional>
#include <span>
#include <thread>

#include "comm/communicator.hpp"
#include "transport/endpoint.hpp"

using namespace gw;

namespace {

Config quick_config() {
  Config c;
  c.timeout_s = 20;
  c.channel_bytes = 64 << 10;
  c.segment_bytes = 4096;
  return c;
}

using RankFunction = std::function<void(Communicator&)>;

void run_with(int size, const std::function<std::unique_ptr<Transport>(int)>& connect, const RankFunction& f,
              const Config& config) {
  std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      try {
        Communicator comm(connect(r), 0, config);
        f(comm);
        comm.engine().close();
      } catch (...) {
        errors[static_cast<size_t>(r)] = std::current_exception();
      }
    });
  for (auto& t : threads) t.join();
  for (auto& e : errors)
    if (e) std::rethrow_exception(e);
}

void run_inproc(int size, const RankFunction& f, const Config& config = quick_config()) {
  InprocHub hub(size, config.channel_bytes);
  run_with(size, [&](int r) { return hub.connect(r); }, f, config);
}

void run_endpoints(int size, const char* transport, const RankFunction& f) {
  Config config = quick_config();
  config.transport = transport;
  std::vector<std::unique_ptr<Endpoint>> endpoints;
  std::vector<std::string> blobs;
  for (int r = 0; r < size; ++r) {
    endpoints.push_back(std::make_unique<Endpoint>(EndpointOptions{.rank = r,
                                                                   .size = size,
                                                                   .epoch = 0,
                                                                   .secret = std::string(32, 's'),
                                                                   .address = "127.0.0.1",
                                                                   .config = config}));
    blobs.push_back(endpoints.back()->blob());
  }
  run_with(
      size,
      [&](int r) { return endpoints[static_cast<size_t>(r)]->connect(blobs, Deadline::after_seconds(20)); },
      f, config);
}

View view(std::vector<float>& v) { return {.data = v.data(), .count = v.size(), .dtype = DType::f32}; }

void call(Communicator& c, Collective collective, std::vector<float>& in, std::vector<float>& out,
          CallOptions o = {}) {
  Work work = c.prepare(collective, view(in), view(out), o);
  c.engine().run(work);
}

// rank r contributes small integers: every order of sums is exact
std::vector<float> share(int rank, size_t count) {
  std::vector<float> x(count);
  for (size_t i = 0; i < count; ++i) x[i] = static_cast<float>((rank + 1) * static_cast<int>(i % 7 + 1));
  return x;
}

void check_all_reduce(Communicator& c, const char* algorithm, size_t count) {
  auto x = share(c.rank(), count);
  CallOptions o;
  o.algorithm = algorithm;
  call(c, Collective::all_reduce, x, x, o);
  const int ranks = c.size() * (c.size() + 1) / 2;
  for (size_t i = 0; i < count; ++i) REQUIRE(x[i] == static_cast<float>(ranks * static_cast<int>(i % 7 + 1)));
}

}  // namespace

TEST_CASE("every algorithm sums exactly, whatever the size") {
  for (int n : {1, 2, 3, 5})
    for (const char* algorithm : {"direct", "ring", "double_tree", "one_shot"})
      run_inproc(n, [&](Communicator& c) {
        for (size_t count : {0, 1, 17, 1024, 20011}) check_all_reduce(c, algorithm, count);
      });
}

TEST_CASE("shm and TCP carry the same results") {
  for (const char* transport : {"shm", "tcp"})
    run_endpoints(3, transport, [&](Communicator& c) {
      for (const char* algorithm : {"direct", "ring"}) check_all_reduce(c, algorithm, 70001);
      check_all_reduce(c, "", 3);
    });
}

// Calls follow one another without a pause, and arrays change as soon as a call returns: places on boards are used again
// while slower peers may still read.
TEST_CASE("what goes to several peers by their boards is read before its place is used again") {
  const auto round_trip = [](Communicator& c) {
    CallOptions o;
    o.algorithm = "direct";
    for (size_t count : {0, 1, 16'001, 16'385, 50'003})
      for (int turn = 0; turn < 4; ++turn) {
        const auto n = static_cast<size_t>(c.size());
        auto mine = share(c.rank() + turn, count);
        std::vector<float> all(n * count);
        call(c, Collective::all_gather, mine, all, o);
        std::ranges::fill(mine, -1.0f);
        for (int r = 0; r < c.size(); ++r)
          REQUIRE(std::ranges::equal(share(r + turn, count),
                                     std::span(all).subspan(static_cast<size_t>(r) * count, count)));
        auto values = share(c.rank() + turn, count);
        CallOptions from = o;
        from.peer = turn % c.size();
        call(c, Collective::broadcast, values, values, from);
        REQUIRE(values == share(turn % c.size() + turn, count));
        std::ranges::fill(values, -1.0f);
      }
  };
  for (int n : {3, 4, 5, 8}) run_inproc(n, round_trip);
  run_endpoints(4, "shm", round_trip);
}

TEST_CASE("both ends of a posted message know the same place, and one send of a segment writes it") {
  const Topology topology;
  const Algorithm& direct = *std::ranges::find(algorithms(), "direct", &Algorithm::name);
  for (const Collective collective : {Collective::all_gather, Collective::broadcast, Collective::all_to_all})
    for (int n : {3, 5}) {
      Operation op;
      op.collective = collective;
      op.count = 100'003;
      op.peer = 0;
      op.in_place = false;
      std::vector<std::shared_ptr<const Plan>> plans;
      for (int r = 0; r < n; ++r) {
        std::vector<uint8_t> shared(static_cast<size_t>(n), uint8_t{1});
        shared[static_cast<size_t>(r)] = 0;
        const PlanSettings settings{.segment_bytes = 8192, .channel_bytes = 65536, .shares_memory = shared};
        plans.push_back(make_plan(op, direct.make({collective, r, n, 0, topology}), 1, 0, settings));
      }
      size_t posted = 0, written = 0;
      for (int r = 0; r < n; ++r) {
        const LanePlan& from = plans[static_cast<size_t>(r)]->lanes[0];
        for (const Unit& u : from.sends) {
          if (u.board == kNoSlot) continue;
          CHECK(u.board + u.payload_bytes <= 2 * 65536);
          const LanePlan& to = plans[static_cast<size_t>(from.peers[u.first_peer])]->lanes[0];
          CHECK(std::ranges::count_if(to.receives, [&](const Unit& v) {
                  return v.chunk == u.chunk && v.segment == u.segment && v.board == u.board;
                }) == 1);
          ++posted;
          written += u.posts;
        }
      }
      CHECK((posted > 0) == (collective != Collective::all_to_all));
      CHECK(posted == written * static_cast<size_t>(n - 1));
    }
}

TEST_CASE("lossy replicas are bit-identical and no loss disappears") {
  for (const char* algorithm : {"direct", "ring", "double_tree", "one_shot"})
    for (const char* codec : {"int8", "int4", "topk"}) {
      const int n = 3;
      const size_t count = 9001;
      std::vector<std::vector<float>> x(n), residual(n);
      run_inproc(n, [&](Communicator& c) {
        const auto r = static_cast<size_t>(c.rank());
        x[r] = share(c.rank(), count);
        residual[r].assign(count, 0.0f);
        CallOptions o{.codec = make_codec(codec), .algorithm = algorithm, .residual = view(residual[r])};
        call(c, Collective::all_reduce, x[r], x[r], o);
      });
      for (int r = 1; r < n; ++r)
        REQUIRE(std::memcmp(x[0].data(), x[static_cast<size_t>(r)].data(), count * sizeof(float)) == 0);
      for (size_t i = 0; i < count; ++i) {
        float exact = 0, owed = 0;
        for (int r = 0; r < n; ++r) {
          exact += share(r, count)[i % 7];
          owed += residual[static_cast<size_t>(r)][i];
        }
        REQUIRE(x[0][i] + owed == doctest::Approx(exact).epsilon(1e-5));
      }
    }
}

TEST_CASE("many operations in flight end in order with the right sums") {
  run_inproc(3, [](Communicator& c) {
    std::vector<std::vector<float>> x;
    std::vector<std::shared_ptr<Work>> works;
    for (size_t i = 0; i < 20; ++i) x.push_back(share(c.rank(), 100 * i));
    for (auto& v : x) {
      works.push_back(c.prepare_shared(Collective::all_reduce, view(v), view(v), {}));
      c.engine().submit(works.back());
    }
    check_all_reduce(c, "", 5);  // a synchronous call queues behind them
    for (auto& w : works) w->wait();
    for (auto& v : x)
      for (size_t i = 0; i < v.size(); ++i) REQUIRE(v[i] == static_cast<float>(6 * (i % 7 + 1)));
  });
}

TEST_CASE("two ranks send each other more than a channel holds") {
  run_inproc(2, [](Communicator& c) {
    auto out = share(c.rank(), 100000);
    std::vector<float> in(out.size());
    CallOptions o;
    o.peer = 1 - c.rank();
    auto send = c.prepare_shared(Collective::send, view(out), view(out), o);
    auto recv = c.prepare_shared(Collective::recv, view(in), view(in), o);
    c.engine().submit(send);
    c.engine().submit(recv);
    send->wait();
    recv->wait();
    REQUIRE(in == share(1 - c.rank(), in.size()));
  });
}

TEST_CASE("a mismatched count is an error on both sides") {
  std::atomic<int> mismatches = 0;
  run_inproc(2, [&](Communicator& c) {
    auto x = share(0, c.rank() ? 1000 : 1001);
    try {
      call(c, Collective::all_reduce, x, x);
    } catch (const Error& e) {
      mismatches += e.kind() == ErrorKind::mismatch;
    }
  });
  CHECK(mismatches == 2);
}

TEST_CASE("an abort from another thread ends everyone") {
  std::atomic<int> aborted = 0;
  run_inproc(3, [&](Communicator& c) {
    std::thread killer;
    if (c.rank() == 0) killer = std::thread([&] { c.engine().abort("test"); });
    if (c.rank() != 0) {
      auto x = share(0, 10);
      try {
        call(c, Collective::all_reduce, x, x);
      } catch (const Error& e) {
        aborted += e.kind() == ErrorKind::aborted;
      }
    }
    if (killer.joinable()) killer.join();
  });
  CHECK(aborted == 2);
}
