#include "transport/address.hpp"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <tuple>

#include "base/error.hpp"
#include "transport/file_descriptor.hpp"

namespace gw {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

AddressList resolve(const std::string& host, int port, int flags, int& error) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_DGRAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  return {error ? nullptr : found, &::freeaddrinfo};
}

std::string numeric(const sockaddr* address, socklen_t length) {
  char text[NI_MAXHOST] = {};
  if (::getnameinfo(address, length, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) != 0) return {};
  return text;
}

}  // namespace

std::string local_address_toward(const std::string& host, int port) {
  int error = 0;
  const AddressList list = resolve(host, port, 0, error);
  if (!list)
    throw Error(ErrorKind::rendezvous, "cannot resolve host '" + host + "': " + ::gai_strerror(error));
  for (const addrinfo* a = list.get(); a; a = a->ai_next) {
    // connect() of a datagram socket only asks the routing table
    const FileDescriptor fd(::socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    SocketAddress own;
    own.length = sizeof(own.storage);
    if (fd && ::connect(fd.get(), a->ai_addr, a->ai_addrlen) == 0 &&
        ::getsockname(fd.get(), own.get(), &own.length) == 0)
      if (std::string text = numeric(own.get(), own.length); !text.empty()) return text;
  }
  throw Error(ErrorKind::rendezvous, "no route from this host to '" + host + "' (" + std::strerror(errno) +
                                         "); name an interface with GRADWIRE_IFNAME");
}

namespace {

using InterfaceList = std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)>;

InterfaceList interfaces() {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) fail_system("getifaddrs");
  return {first, &::freeifaddrs};
}

// Of an address that peers could use; empty: they could not.
std::string usable(const ifaddrs& i) {
  if (!i.ifa_addr || !(i.ifa_flags & IFF_UP) || (i.ifa_flags & IFF_LOOPBACK)) return {};
  if (i.ifa_addr->sa_family == AF_INET) {
    const std::string text = numeric(i.ifa_addr, sizeof(sockaddr_in));
    return text.starts_with("169.254.") ? std::string() : text;
  }
  if (i.ifa_addr->sa_family != AF_INET6) return {};
  // link-local addresses mean nothing to a peer without a scope of its own
  const std::string text = numeric(i.ifa_addr, sizeof(sockaddr_in6));
  return text.find('%') == std::string::npos && !text.starts_with("fe80:") ? text : std::string();
}

// Smaller is better.
std::tuple<bool, int, bool> preference(const ifaddrs& i) {
  const std::filesystem::path device = std::filesystem::path("/sys/class/net") / i.ifa_name;
  std::error_code ignored;
  int megabits = -1;
  std::ifstream(device / "speed") >> megabits;
  return {!std::filesystem::exists(device / "device", ignored), -megabits, i.ifa_addr->sa_family == AF_INET6};
}

}  // namespace

std::vector<std::string> reachable_addresses() {
  constexpr size_t kMost = 8;
  const InterfaceList list = interfaces();
  std::vector<std::pair<std::tuple<bool, int, bool>, std::string>> found;
  for (const ifaddrs* i = list.get(); i; i = i->ifa_next)
    if (std::string text = usable(*i); !text.empty()) found.emplace_back(preference(*i), std::move(text));
  std::ranges::stable_sort(found, {}, [](const auto& f) { return f.first; });
  std::vector<std::string> addresses;
  for (auto& f : found)
    if (addresses.size() < kMost) addresses.push_back(std::move(f.second));
  return addresses;
}

std::vector<std::string> split_addresses(const std::string& list) {
  std::vector<std::string> all;
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) all.push_back(word);
  return all;
}

std::string ends_of(int socket) {
  SocketAddress own, other;
  own.length = other.length = sizeof(own.storage);
  if (::getsockname(socket, own.get(), &own.length) != 0) return "?";
  if (::getpeername(socket, other.get(), &other.length) != 0) return "?";
  return numeric(own.get(), own.length) + " to " + numeric(other.get(), other.length);
}

std::string address_of_interface(const std::string& name) {
  const InterfaceList list = interfaces();
  std::string v6;
  std::set<std::string> names;
  for (const ifaddrs* i = list.get(); i; i = i->ifa_next) {
    if (!i->ifa_addr || (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6)) continue;
    names.insert(i->ifa_name);
    if (name != i->ifa_name) continue;
    if (i->ifa_addr->sa_family == AF_INET) return numeric(i->ifa_addr, sizeof(sockaddr_in));
    // link-local addresses mean nothing to a peer without a scope of its own
    const std::string text = numeric(i->ifa_addr, sizeof(sockaddr_in6));
    if (v6.empty() && text.find('%') == std::string::npos) v6 = text;
  }
  if (!v6.empty()) return v6;
  std::string known;
  for (const auto& n : names) known += (known.empty() ? "" : ", ") + n;
  fail_argument("network interface '" + name + "' does not exist or has no address; this host has: " + known);
}

SocketAddress socket_address(const std::string& text, int port) {
  int error = 0;
  const AddressList list = resolve(text, port, AI_NUMERICHOST, error);
  if (!list) fail_argument("expected a numeric IPv4 or IPv6 address, got '" + text + "'");
  SocketAddress out;
  std::memcpy(&out.storage, list->ai_addr, list->ai_addrlen);
  out.length = list->ai_addrlen;
  return out;
}

}  // namespace gw
