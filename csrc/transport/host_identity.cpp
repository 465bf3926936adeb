#include "transport/host_identity.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

namespace gw {
namespace {

std::string inode_of(const char* path) {
  struct stat status{};
  return ::stat(path, &status) == 0 ? std::to_string(status.st_ino) : std::string();
}

}  // namespace

HostIdentity host_identity() {
  HostIdentity id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id.boot_id;
  id.network_namespace = inode_of("/proc/self/ns/net");
  id.pid_namespace = inode_of("/proc/self/ns/pid");
  return id;
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0 || !name[0]) return "unknown-host";
  return name;
}

}  // namespace gw
