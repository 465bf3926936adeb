#include "comm/costs.hpp"

#include <algorithm>

#include "base/error.hpp"

namespace gw {
namespace {

// Measured on two cores of one host, 2026-11: a shm message costs about 0.5 us and 10 GB/s, TCP over loopback 30 us and
// 1.5 GB/s; reducing runs at 12 GB/s of one core, encoding and decoding at 4.
constexpr Link kInsideHost{.alpha_s = 0.5e-6, .beta_s_per_byte = 1 / 10e9};
constexpr Link kBetweenHosts{.alpha_s = 30e-6, .beta_s_per_byte = 1 / 1.5e9};
constexpr double kReduce = 1 / 12e9;

}  // namespace

void Costs::check(int size) const {
  const auto n = static_cast<size_t>(size);
  if (links.size() != n * n || machine.size() != n)
    fail_argument("costs: expected " + std::to_string(n * n) + " links and " + std::to_string(n) +
                  " machines for " + std::to_string(n) + " ranks, got " + std::to_string(links.size()) +
                  " and " + std::to_string(machine.size()));
  for (const Link& l : links)
    for (double v : {l.alpha_s, l.beta_s_per_byte, l.message_s, l.touch_s_per_byte})
      if (!(v >= 0 && v < 1e6)) fail_argument("costs: a link's times must be numbers of at least 0");
  for (const auto& [codec, trials_of_codec] : trials)
    for (const Trial& t : trials_of_codec)
      if (!(t.raw_bytes > 0 && t.factor > 0 && t.factor < 1e6))
        fail_argument("costs: a trial's bytes and factor must be positive numbers");
}

Link Costs::slowest() const {
  const auto seconds = [](const Link& l) {
    constexpr double kBytes = 256 << 10;
    return l.alpha_s + 2 * l.message_s + kBytes * (l.beta_s_per_byte + l.touch_s_per_byte);
  };
  Link slowest{};
  for (const Link& l : links)
    if (seconds(l) > seconds(slowest)) slowest = l;
  return slowest;
}

Costs default_costs(const Transport& t) {
  Costs costs;
  for (int from = 0; from < t.size(); ++from) {
    costs.machine.push_back(t.machine_number(from));
    for (int to = 0; to < t.size(); ++to)
      costs.links.push_back(from == to                                 ? Link{}
                            : t.host_number(from) == t.host_number(to) ? kInsideHost
                                                                       : kBetweenHosts);
  }
  costs.reduce_s_per_byte = kReduce;
  return costs;
}

}  // namespace gw
