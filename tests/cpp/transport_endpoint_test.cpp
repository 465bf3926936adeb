// Rendezvous: who gets in, who does not, and what is left afterwards.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <sys/socket.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "transport/address.hpp"
#include "transport/blob.hpp"
#include "transport/file_descriptor.hpp"
#include "transport/handshake.hpp"
#include "transport/pair.hpp"
#include "transport/tuning.hpp"
#include "transport_ranks.hpp"

using namespace gw_test;

namespace {

using Endpoints = std::vector<std::unique_ptr<gw::Endpoint>>;

Endpoints make_endpoints(int n, const gw::Config& config = {}) {
  Endpoints all;
  for (int r = 0; r < n; ++r) all.push_back(std::make_unique<gw::Endpoint>(options(r, n, config)));
  return all;
}

std::vector<std::string> blobs_of(const Endpoints& endpoints) {
  std::vector<std::string> blobs;
  for (const auto& e : endpoints) blobs.push_back(e->blob());
  return blobs;
}

gw::FileDescriptor dial(const gw::Blob& to) {
  const gw::SocketAddress address = gw::socket_address(to.address, to.port);
  gw::FileDescriptor fd(::socket(address.family(), SOCK_STREAM, 0));
  REQUIRE(::connect(fd.get(), address.get(), address.length) == 0);
  return fd;
}

void say(const gw::FileDescriptor& fd, const void* bytes, size_t count) {
  (void)!::send(fd.get(), bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
}

size_t mapped_segments() {
  std::ifstream maps("/proc/self/maps");
  size_t n = 0;
  for (std::string line; std::getline(maps, line);) n += line.find("memfd:gradwire") != std::string::npos;
  return n;
}

size_t entries(const char* folder) {
  const std::filesystem::directory_iterator all(folder);
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

void talk(Transports& t) {
  run_ranks(static_cast<int>(t.size()), [&](int r) {
    gw::Transport& own = *t[static_cast<size_t>(r)];
    for (int round = 0; round < 200; ++round) {
      for (int p = 0; p < own.size(); ++p) {
        if (p == r) continue;
        std::memcpy(await(own, [&] { return own.channel(p, 0).reserve(4); }), &r, 4);
        own.channel(p, 0).commit(4);
      }
      for (int p = 0; p < own.size(); ++p) {
        if (p == r) continue;
        int got;
        std::memcpy(&got, await(own, [&] { return own.channel(p, 0).peek(4); }), 4);
        own.channel(p, 0).consume(4);
        if (got != p) throw std::runtime_error("wrong bytes");
      }
    }
  });
}

std::string replaced(std::string text, const std::string& key, const std::string& value) {
  const size_t at = text.find("\n" + key + "=") + key.size() + 2;
  return text.replace(at, text.find('\n', at) - at, value);
}

std::string rendezvous_error(gw::Endpoint& endpoint, const std::vector<std::string>& blobs, double seconds) {
  try {
    endpoint.connect(blobs, gw::Deadline::after_seconds(seconds));
  } catch (const gw::Error& e) {
    CHECK(e.kind() == gw::ErrorKind::rendezvous);
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("garbage sent to the listening port changes nothing") {
  for (const char* kind : {"shm", "tcp"}) {
    CAPTURE(kind);
    gw::Config config;
    config.transport = kind;
    Endpoints endpoints = make_endpoints(3, config);
    const gw::Blob zero = gw::parse_blob(endpoints[0]->blob(), 0);
    const gw::Blob two = gw::parse_blob(endpoints[2]->blob(), 2);
    std::vector<gw::FileDescriptor> attackers;
    std::mt19937 random(3);
    std::vector<uint32_t> noise(1 << 18);
    for (auto& word : noise) word = static_cast<uint32_t>(random());
    for (const size_t bytes :
         {size_t{0}, size_t{1}, size_t{127}, size_t{128}, size_t{129}, noise.size() * 4}) {
      attackers.push_back(dial(zero));
      say(attackers.back(), noise.data(), bytes);
    }
    // right form, one thing wrong
    const gw::Handshake knows(two, std::string(32, 's')), guesses(two, std::string(32, 'x'));
    const gw::Hello good = knows.hello(zero, gw::kControlLane, 0, 1);
    std::vector<gw::Hello> wrong(10, good);
    wrong[0] = guesses.hello(zero, gw::kControlLane, 0, 1);
    wrong[1].epoch += 1;
    wrong[2].to = 1;
    wrong[3].from = 3;
    wrong[4].from = -1;
    wrong[5].from = 0;
    wrong[6].lane = gw::kLanes;
    wrong[7].socket = 1000000;
    wrong[8].to_nonce[1] ^= 1;
    wrong[9].reply = 1;
    for (const gw::Hello& hello : wrong) {
      attackers.push_back(dial(zero));
      say(attackers.back(), &hello, sizeof(hello));
    }
    attackers.push_back(dial(zero));
    say(attackers.back(), &good, 64);  // half a handshake, then silence
    Transports t = connect_all(endpoints);
    talk(t);
    CHECK(t[0]->kind(1) == kind);
    // and once it is up nobody listens any more
    const gw::SocketAddress address = gw::socket_address(zero.address, zero.port);
    const gw::FileDescriptor late(::socket(address.family(), SOCK_STREAM, 0));
    CHECK(::connect(late.get(), address.get(), address.length) != 0);
  }
}

TEST_CASE("hundreds of silent connections only delay the ranks") {
  Endpoints endpoints = make_endpoints(2);
  std::vector<gw::FileDescriptor> silent;
  for (int i = 0; i < 300; ++i) silent.push_back(dial(gw::parse_blob(endpoints[0]->blob(), 0)));
  Transports t = connect_all(endpoints);
  talk(t);
}

TEST_CASE("a rank with another secret or epoch stays outside, and is named") {
  for (const bool secret : {true, false}) {
    std::vector<std::string> blobs;
    Endpoints endpoints = make_endpoints(2);
    gw::EndpointOptions other = options(1, 2);
    if (secret) other.secret = "something else";
    if (!secret) other.epoch = 8;
    gw::Endpoint stranger(other);
    blobs = {endpoints[0]->blob(), stranger.blob()};
    std::string errors[2];
    run_ranks(2, [&](int r) { errors[r] = rendezvous_error(r ? stranger : *endpoints[0], blobs, 0.5); });
    CHECK(errors[0].find("rank 1") != std::string::npos);
    CHECK(errors[1].find("rank 0") != std::string::npos);
    if (secret) CHECK(errors[1].find("secret") != std::string::npos);
  }
}

TEST_CASE("ranks that do not come are named, within the deadline") {
  Endpoints endpoints = make_endpoints(3);
  const auto blobs = blobs_of(endpoints);
  const auto start = std::chrono::steady_clock::now();
  const std::string error = rendezvous_error(*endpoints[1], blobs, 0.3);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(2));
  CHECK(error.find("rank 0 (") != std::string::npos);
  CHECK(error.find("rank 2 (") != std::string::npos);
}

TEST_CASE("a wait for ranks that do not come can be interrupted") {
  gw::EndpointOptions impatient = options(0, 2);
  int calls = 0;
  impatient.idle = [&] {
    if (++calls == 3) throw std::domain_error("interrupted");
  };
  gw::Endpoint endpoint(impatient), absent(options(1, 2));
  CHECK_THROWS_AS(endpoint.connect({endpoint.blob(), absent.blob()}, gw::Deadline::after_seconds(20)),
                  std::domain_error);
}

TEST_CASE("shm to another host is refused in words; auto takes TCP") {
  for (const char* transport : {"shm", "auto"}) {
    gw::Config config;
    config.transport = transport;
    Endpoints endpoints = make_endpoints(2, config);
    const auto honest = blobs_of(endpoints);
    // each sees the other as a rank of another machine
    const std::vector<std::string> seen_by_0 = {honest[0], replaced(honest[1], "boot", "elsewhere")};
    const std::vector<std::string> seen_by_1 = {replaced(honest[0], "boot", "elsewhere"), honest[1]};
    if (config.transport == "shm") {
      CHECK(rendezvous_error(*endpoints[0], seen_by_0, 1).find("another host") != std::string::npos);
      continue;
    }
    Transports t(2);
    run_ranks(2, [&](int r) {
      t[static_cast<size_t>(r)] = endpoints[static_cast<size_t>(r)]->connect(r ? seen_by_1 : seen_by_0,
                                                                             gw::Deadline::after_seconds(10));
    });
    CHECK(t[0]->kind(1) == "tcp");
    CHECK(t[0]->ranks_on_this_machine() == 1);
    talk(t);
  }
}

TEST_CASE("ranks in containers of one machine take TCP and know that they share its cores") {
  Endpoints endpoints = make_endpoints(2);
  const auto honest = blobs_of(endpoints);
  const std::vector<std::string> seen_by_0 = {honest[0], replaced(honest[1], "netns", "1")};
  const std::vector<std::string> seen_by_1 = {replaced(honest[0], "netns", "1"), honest[1]};
  Transports t(2);
  run_ranks(2, [&](int r) {
    t[static_cast<size_t>(r)] = endpoints[static_cast<size_t>(r)]->connect(r ? seen_by_1 : seen_by_0,
                                                                           gw::Deadline::after_seconds(10));
  });
  CHECK(t[0]->kind(1) == "tcp");
  CHECK(t[0]->ranks_on_this_machine() == 2);
}

TEST_CASE("a pair whose shared memory cannot be mapped on one side takes TCP, beside pairs that share") {
  Endpoints endpoints = make_endpoints(3);
  const auto blobs = blobs_of(endpoints);
  auto forged = blobs;
  forged[0] = replaced(blobs[0], "memory", "1");  // rank 2 will find something else there
  Transports t(3);
  run_ranks(3, [&](int r) {
    t[static_cast<size_t>(r)] =
        endpoints[static_cast<size_t>(r)]->connect(r == 2 ? forged : blobs, gw::Deadline::after_seconds(10));
  });
  CHECK(t[0]->kind(1) == "shm");
  CHECK(t[0]->kind(2) == "tcp");
  CHECK(t[2]->kind(0) == "tcp");
  CHECK(t[2]->kind(1) == "shm");
  CHECK(t[2]->ranks_on_this_machine() == 3);
  talk(t);
}

TEST_CASE("IPv6 works like IPv4") {
  gw::Config config;
  config.transport = "tcp";
  Endpoints endpoints;
  try {
    for (int r = 0; r < 2; ++r) {
      gw::EndpointOptions o = options(r, 2, config);
      o.address = "::1";
      endpoints.push_back(std::make_unique<gw::Endpoint>(o));
    }
  } catch (const gw::Error& e) {
    MESSAGE("skipped, no IPv6 loopback here: " << e.what());
    return;
  }
  Transports t = connect_all(endpoints);
  talk(t);
}

TEST_CASE("different settings are refused in words") {
  gw::Config other;
  other.channel_bytes *= 2;
  Endpoints endpoints = make_endpoints(2);
  gw::Endpoint odd(options(1, 2, other));
  CHECK(
      rendezvous_error(*endpoints[0], {endpoints[0]->blob(), odd.blob()}, 1).find("GRADWIRE_CHANNEL_BYTES") !=
      std::string::npos);
}

TEST_CASE("blobs survive the way through text, and nonsense is refused") {
  Endpoints endpoints = make_endpoints(2);
  const gw::Blob blob = gw::parse_blob(endpoints[1]->blob(), 1);
  CHECK(gw::parse_blob(gw::to_text(blob), 1) == blob);
  for (const std::string& text :
       {std::string(), std::string("nonsense"), std::string(100000, 'x'), gw::to_text(blob) + "\nx",
        replaced(gw::to_text(blob), "port", "99999"), replaced(gw::to_text(blob), "pid", "1x"),
        replaced(gw::to_text(blob), "rank", "0"), std::string("gradwire-endpoint-1\nrank=1")})
    CHECK_THROWS_AS(gw::parse_blob(text, 1), gw::Error);
}

TEST_CASE("bad options are refused") {
  auto bad = [](auto change) {
    gw::EndpointOptions o = options(0, 2);
    change(o);
    CHECK_THROWS_AS(gw::Endpoint{o}, gw::Error);
  };
  bad([](auto& o) { o.rank = 2; });
  bad([](auto& o) { o.size = 0; });
  bad([](auto& o) { o.secret = ""; });
  bad([](auto& o) { o.secret = std::string(65, 'x'); });
  bad([](auto& o) { o.address = "not-an-address"; });
  bad([](auto& o) { o.address = "192.0.2.1"; });
  bad([](auto& o) { o.config.sockets = -1; });
}

TEST_CASE("a hundred jobs leave no descriptor, mapping or thread behind") {
  const auto once = [](int i) {
    Transports t = connect(i % 3 ? (i % 3 == 1 ? "shm" : "inproc") : "tcp", 2);
    talk(t);
    if (i % 2)
      for (auto& each : t) each->close();
    Endpoints unused = make_endpoints(2);
  };
  once(0), once(1), once(2);
  const size_t files = entries("/proc/self/fd"), threads = entries("/proc/self/task");
  for (int i = 0; i < 100; ++i) once(i);
  CHECK(entries("/proc/self/fd") == files);
  CHECK(entries("/proc/self/task") == threads);
  CHECK(mapped_segments() == 0);
}

TEST_CASE("addresses") {
  CHECK(gw::local_address_toward("127.0.0.1", 80) == "127.0.0.1");
  CHECK(gw::local_address_toward("localhost", 80).size() >= 3);
  CHECK(gw::address_of_interface("lo") == "127.0.0.1");
  CHECK_THROWS_AS(gw::address_of_interface("no-such-interface"), gw::Error);
  CHECK_THROWS_AS(gw::local_address_toward("no-such-host.invalid", 80), gw::Error);
}

TEST_CASE("the round trip decides how many sockets a path gets") {
  CHECK(gw::sockets_for(0) == 1);
  CHECK(gw::sockets_for(100e-6) == 1);
  int before = 1;
  for (const double seconds : {1e-3, 10e-3, 100e-3, 10.0}) {
    CHECK(gw::sockets_for(seconds) >= before);
    before = gw::sockets_for(seconds);
  }
  CHECK(before == gw::kMostSockets);
}

TEST_CASE("a congestion control that the kernel does not have is refused in words") {
  const auto connect_with = [](const char* congestion) {
    gw::Config config;
    config.transport = "tcp";
    config.congestion = congestion;
    std::vector<std::unique_ptr<gw::Endpoint>> endpoints;
    for (int r = 0; r < 2; ++r) endpoints.push_back(std::make_unique<gw::Endpoint>(options(r, 2, config)));
    return connect_all(endpoints).size();
  };
  for (const char* fine : {"auto", "system", "reno"}) CHECK(connect_with(fine) == 2);
  CHECK_THROWS_AS(connect_with("carrier-pigeon"), gw::Error);
}

TEST_CASE("the list names each transport and its file") {
  for (const auto& kind : gw::transport_kinds()) {
    CHECK(!kind.summary.empty());
    CHECK(kind.file == std::string(kind.name) + ".cpp");
  }
}
