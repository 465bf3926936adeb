#include "transport/address.hpp"

#include <ifaddrs.h>
#include <netdb.h>

#include <cstring>
#include <memory>
#include <set>

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

std::string address_of_interface(const std::string& name) {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) fail_system("getifaddrs");
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> list(first, &::freeifaddrs);
  std::string v6;
  std::set<std::string> names;
  for (const ifaddrs* i = first; i; i = i->ifa_next) {
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
