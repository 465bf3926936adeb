// Which of this host's addresses should peers use?
#pragma once
#include <sys/socket.h>

#include <string>

namespace gw {

// The numeric address from which packets to `host` (a name or an address) leave. Sends nothing.
// Throws Error(rendezvous) if the name does not resolve or there is no route.
std::string local_address_toward(const std::string& host, int port);

// The numeric address of a network interface, IPv4 if it has one. Throws Error(argument) naming those that exist.
std::string address_of_interface(const std::string& name);

// A numeric address and a port as the kernel wants them. Throws Error(argument).
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  int family() const { return storage.ss_family; }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};
SocketAddress socket_address(const std::string& numeric, int port);

}  // namespace gw
