// Which host is this? Read from the kernel, so that containers and network namespaces on one machine, and machines
// with one name, are told apart correctly.
#pragma once
#include <string>

namespace gw {

struct HostIdentity {
  std::string boot_id;            // one per boot of a kernel; empty if it cannot be read
  std::string network_namespace;  // inode, as text
  std::string pid_namespace;      // two processes that see one another under /proc share it
  bool operator==(const HostIdentity&) const = default;
};

HostIdentity host_identity();
std::string host_name();

}  // namespace gw
