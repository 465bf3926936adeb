// Ranks as processes: what only the operating system can show.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "transport/file_descriptor.hpp"
#include "transport_ranks.hpp"

using namespace gw_test;

namespace {

struct Pipe {
  Pipe() {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    out = gw::FileDescriptor(ends[0]);
    in = gw::FileDescriptor(ends[1]);
  }
  void put(std::string text) const {
    text.resize(2048);
    if (::write(in.get(), text.data(), text.size()) != 2048) ::_exit(3);
  }
  std::string take() const {
    std::string text(2048, '\0');
    size_t got = 0;
    while (got < text.size()) {
      const ssize_t n = ::read(out.get(), text.data() + got, text.size() - got);
      if (n <= 0) throw std::runtime_error("the other process is gone");
      got += static_cast<size_t>(n);
    }
    return text.c_str();
  }
  gw::FileDescriptor out, in;
};

// Rank 0 is this process; rank 1 a child that connects, does `body` and then waits to be killed.
struct Child {
  Child(const char* kind, void (*body)(gw::Transport&)) {
    gw::Config config;
    config.transport = kind;
    const Pipe down, up;
    pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      try {
        gw::Endpoint endpoint(options(1, 2, config));
        up.put(endpoint.blob());
        auto t = endpoint.connect({down.take(), endpoint.blob()}, gw::Deadline::after_seconds(20));
        body(*t);
        up.put("ready");
        for (;;) ::pause();
      } catch (...) {
        ::_exit(2);
      }
    }
    gw::Endpoint endpoint(options(0, 2, config));
    down.put(endpoint.blob());
    transport = endpoint.connect({endpoint.blob(), up.take()}, gw::Deadline::after_seconds(20));
    if (up.take() != "ready") throw std::runtime_error("unexpected word");
  }
  ~Child() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  pid_t pid;
  std::unique_ptr<gw::Transport> transport;
};

}  // namespace

TEST_CASE("a killed process is lost at once; what it had sent can still be read") {
  for (const char* kind : {"shm", "tcp"}) {
    CAPTURE(kind);
    Child child(kind, [](gw::Transport& t) {
      for (int i = 0; i < 3; ++i) {
        std::memcpy(t.channel(0, 1).reserve(4), &i, 4);
        t.channel(0, 1).commit(4);
      }
    });
    gw::Transport& t = *child.transport;
    CHECK(t.kind(1) == kind);
    ::kill(child.pid, SIGKILL);
    gw::ControlMessage m;
    await(t, [&] { return t.control_receive(1, m), t.peer_state(1) != gw::PeerState::alive; });
    CHECK(t.peer_state(1) == gw::PeerState::lost);
    for (int i = 0; i < 3; ++i) {
      const std::byte* in = t.channel(1, 1).peek(4);
      REQUIRE(in);
      CHECK(std::memcmp(in, &i, 4) == 0);
      t.channel(1, 1).consume(4);
    }
    CHECK(t.channel(1, 1).peek(4) == nullptr);
  }
}

TEST_CASE("a killed process is lost even if a child it forked holds its sockets open") {
  Child child("shm", [](gw::Transport& t) {
    if (::fork() == 0) {
      t.close();  // in a forked child this says nothing to anybody
      ::alarm(10);
      for (;;) ::pause();
    }
  });
  gw::Transport& t = *child.transport;
  gw::ControlMessage m;
  CHECK(!t.control_receive(1, m));
  CHECK(t.peer_state(1) == gw::PeerState::alive);
  ::kill(child.pid, SIGKILL);
  const auto start = std::chrono::steady_clock::now();
  await(t, [&] { return t.control_receive(1, m), t.peer_state(1) != gw::PeerState::alive; });
  CHECK(t.peer_state(1) == gw::PeerState::lost);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
}

TEST_CASE("memory lent by a process that has died meanwhile is away, and no error") {
  const Child child("shm", [](gw::Transport&) {});
  siginfo_t info;
  ::kill(child.pid, SIGKILL);
  REQUIRE(::waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED | WNOWAIT) == 0);
  // whose files may not be opened any more, but by root
  const int before = ::setfsuid(65534);
  std::byte* at = nullptr;
  CHECK_NOTHROW(at = child.transport->lent(1, {.offset = 0, .bytes = 1, .file = 3}));
  ::setfsuid(static_cast<uid_t>(before));
  CHECK(at == nullptr);
}

TEST_CASE("shared memory has no name in /dev/shm") {
  // What both processes have mapped, and not what lies in the folder: others use that, too.
  const auto mapped = [](pid_t pid, const char* what) {
    std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
    size_t n = 0;
    for (std::string line; std::getline(maps, line);) n += line.find(what) != std::string::npos;
    return n;
  };
  const Child child("shm", [](gw::Transport&) {});
  CHECK(child.transport->kind(1) == "shm");
  for (const pid_t pid : {::getpid(), child.pid}) {
    CHECK(mapped(pid, "memfd:gradwire") > 0);
    CHECK(mapped(pid, "/dev/shm/") == 0);
  }
}

TEST_CASE("a stopped process is alive as far as known, and goes on where it was") {
  Child child("shm", [](gw::Transport& t) {
    const int value = 7;
    std::memcpy(t.channel(0, 0).reserve(4), &value, 4);
    t.channel(0, 0).commit(4);
  });
  ::kill(child.pid, SIGSTOP);
  gw::Transport& t = *child.transport;
  CHECK(t.control_send(1, {}));
  CHECK(t.peer_state(1) == gw::PeerState::alive);
  CHECK(t.channel(1, 0).peek(4) != nullptr);
  const auto start = std::chrono::steady_clock::now();
  t.close();  // does not wait for it either
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(2));
}
