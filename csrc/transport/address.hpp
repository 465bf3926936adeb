// Which of this host's addresses should peers use?
#pragma once
#include <sys/socket.h>

#include <string>
#include <vector>

namespace gw {

// The numeric address from which packets to `host` (a name or an address) leave. Sends nothing.
// Throws Error(rendezvous) if the name does not resolve or there is no route.
std::string local_address_toward(const std::string& host, int port);

// The numeric address of a network interface, IPv4 if it has one. Throws Error(argument) naming those that exist.
std::string address_of_interface(const std::string& name);

// Every numeric address at which a peer may find this host, the best first: devices before software (bridges of
// container engines), fast links before slow ones, IPv4 before IPv6. Neither loopback nor link-local ones.
std::vector<std::string> reachable_addresses();

// "a,b" -> a, b
std::vector<std::string> split_addresses(const std::string& list);

// "10.0.0.1 to 10.0.0.2": both ends of a connected socket.
std::string ends_of(int socket);

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
