#include "schedule/topology.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>

#include "base/error.hpp"

namespace gw {

void Topology::check(int size) const {
  const auto n = static_cast<size_t>(size);
  const auto length = [&](const char* what, size_t got) {
    if (got && got != n)
      fail_argument("topology: " + std::string(what) + " lists " + std::to_string(got) + " ranks, expected " +
                    std::to_string(n));
  };
  length("host", host.size());
  length("order", order.size());
  length("slow", slow.size());
  std::vector<int> sorted = order;
  std::ranges::sort(sorted);
  for (size_t i = 0; i < sorted.size(); ++i)
    if (sorted[i] != static_cast<int>(i))
      fail_argument("topology: order must hold every rank from 0 to " + std::to_string(size - 1) + " once");
}

uint32_t Topology::hash() const {
  uint32_t hash = 2166136261u;  // FNV-1a
  const auto mix = [&hash](uint32_t v) {
    for (int byte = 0; byte < 4; ++byte) hash = (hash ^ ((v >> (8 * byte)) & 0xff)) * 16777619u;
  };
  mix(static_cast<uint32_t>(host.size()));
  for (int h : host) mix(static_cast<uint32_t>(h));
  mix(static_cast<uint32_t>(order.size()));
  for (int r : order) mix(static_cast<uint32_t>(r));
  mix(static_cast<uint32_t>(slow.size()));
  for (bool s : slow) mix(s);
  return hash;
}

std::vector<int> ring_order(const Topology& topology, int size) {
  if (!topology.order.empty()) return topology.order;
  std::vector<int> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

std::vector<int> places_in(const std::vector<int>& order) {
  std::vector<int> place(order.size());
  for (size_t i = 0; i < order.size(); ++i) place[static_cast<size_t>(order[i])] = static_cast<int>(i);
  return place;
}

std::vector<std::vector<int>> ranks_by_host(const Topology& topology, int size) {
  std::vector<std::vector<int>> hosts;
  std::map<int, size_t> index;
  for (int r = 0; r < size; ++r) {
    const int host = topology.host.empty() ? 0 : topology.host[static_cast<size_t>(r)];
    const auto [at, fresh] = index.try_emplace(host, hosts.size());
    if (fresh) hosts.emplace_back();
    hosts[at->second].push_back(r);
  }
  return hosts;
}

std::vector<int> quick_ranks(const Topology& topology, int size) {
  std::vector<int> quick, all = ring_order({}, size);
  for (int r : all)
    if (topology.slow.empty() || !topology.slow[static_cast<size_t>(r)]) quick.push_back(r);
  return quick.empty() ? all : quick;
}

}  // namespace gw
