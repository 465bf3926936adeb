// Ranks as threads of the test, linked by any of the transports.
#pragma once
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "transport/endpoint.hpp"

namespace gw_test {

using Transports = std::vector<std::unique_ptr<gw::Transport>>;

// Runs body(0) .. body(n-1) side by side; rethrows the first failure.
inline void run_ranks(int n, const std::function<void(int)>& body) {
  std::vector<std::exception_ptr> errors(static_cast<size_t>(n));
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r)
    threads.emplace_back([&, r] {
      try {
        body(r);
      } catch (...) {
        errors[static_cast<size_t>(r)] = std::current_exception();
      }
    });
  for (auto& t : threads) t.join();
  for (auto& e : errors)
    if (e) std::rethrow_exception(e);
}

inline gw::EndpointOptions options(int rank, int size, const gw::Config& config = {}) {
  return {rank, size, 7, std::string(32, 's'), "127.0.0.1", config, {}};
}

inline Transports connect_all(std::vector<std::unique_ptr<gw::Endpoint>>& endpoints) {
  std::vector<std::string> blobs;
  for (auto& e : endpoints) blobs.push_back(e->blob());
  Transports transports(endpoints.size());
  run_ranks(static_cast<int>(endpoints.size()), [&](int r) {
    transports[static_cast<size_t>(r)] =
        endpoints[static_cast<size_t>(r)]->connect(blobs, gw::Deadline::after_seconds(20));
  });
  return transports;
}

// kind: "inproc", "shm" or "tcp". "mixed" links even and odd ranks by TCP, like two hosts with a shared /proc.
inline Transports connect(const std::string& kind, int n, size_t channel_bytes = 65536, int sockets = 2) {
  Transports transports;
  if (kind == "inproc") {
    gw::InprocHub hub(n, channel_bytes);
    for (int r = 0; r < n; ++r) transports.push_back(hub.connect(r));
    return transports;
  }
  gw::Config config;
  config.transport = kind;
  config.sockets = sockets;
  config.channel_bytes = channel_bytes;
  config.segment_bytes = channel_bytes / 4;
  std::vector<std::unique_ptr<gw::Endpoint>> endpoints;
  for (int r = 0; r < n; ++r) endpoints.push_back(std::make_unique<gw::Endpoint>(options(r, n, config)));
  return connect_all(endpoints);
}

// Waits as the executor does, without its spinning. Throws after 20 s.
template <class Ready>
auto await(gw::Transport& t, Ready&& ready) {
  const auto deadline = gw::Deadline::after_seconds(20);
  for (;;) {
    if (auto result = ready()) return result;
    if (deadline.passed()) throw std::runtime_error("nothing came within 20 s");
    t.progress();
    t.sleep(deadline);
  }
}

}  // namespace gw_test
